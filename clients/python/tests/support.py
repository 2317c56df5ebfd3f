"""What the tests talk to: the real server (CAMPANILE_BIN), and one that does as it is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import msgpack
from websockets.asyncio.server import Server as SocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from campanile_client import PROTOCOL, Client, Event, Message

# Longer than anything takes where nothing else runs; every wait is for an event.
PATIENCE = 30.0


class Campanile:
    """`campanile serve` with the embedded bus, in a directory of its own."""

    def __init__(self, settings: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="campanile-python-")
        Path(self._directory.name, "campanile.toml").write_text(settings)
        self.listen, self.control = "127.0.0.1:0", "127.0.0.1:0"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._process.returncode is None:
            await self.stop(signal.SIGKILL)
        self._directory.cleanup()

    async def start(self) -> None:
        """On the ports that it had before."""
        arguments = ["serve", "--listen", self.listen, "--control", self.control]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CAMPANILE_")}
        self._process = await asyncio.create_subprocess_exec(
            os.environ["CAMPANILE_BIN"], *arguments, cwd=self._directory.name, env=environment, stderr=asyncio.subprocess.PIPE
        )
        assert self._process.stderr is not None
        told: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while not told or not told[-1].startswith("  control "):
                line = (await self._process.stderr.readline()).decode()
                assert line, f"the server does not start: {told}"
                told.append(line)
                if line.startswith("  clients "):
                    self.listen = line.split("//")[1].split("/")[0].strip()
        self.control = told[-1].split("//")[1].strip()
        self._log = asyncio.create_task(self._process.stderr.read())

    async def stop(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            await self._process.wait()
            await self._log

    @property
    def url(self) -> str:
        return f"ws://{self.listen}/ws"

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"http://{self.control}{path}", json.dumps(body).encode(), method="POST")

        def answer() -> Any:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return json.loads(response.read())

        return await asyncio.to_thread(answer)

    async def publish(self, channel: str, *values: Any) -> None:
        for value in values:
            await self.post("/publish", {"channel": channel, "data": value})


Script = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One connection of the client, seen from the server."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def connected(self, heartbeat: float = 30) -> None:
        await self.tell(type="connected", client_id="1", heartbeat=heartbeat, timestamp=0)

    async def tell(self, **event: Any) -> None:
        await self.socket.send(msgpack.packb(event))

    async def command(self, *kinds: str) -> Any:
        command = msgpack.unpackb(await self.socket.recv(decode=False))
        assert command["type"] in kinds, command
        return command

    async def subscribed(self, seq: int, epoch: int = 7, recovered: bool = False) -> Any:
        """Answers a `subscribe` for all of its channels, and returns it."""
        command = await self.command("subscribe")
        for one in command["channels"]:
            await self.tell(
                type="subscribed", id=command["id"], channel=one["channel"], epoch=epoch, seq=seq, recovered=recovered, timestamp=0
            )
        return command

    async def notify(self, channel: str, *numbers: int) -> None:
        for seq in numbers:
            await self.tell(type="notification", channel=channel, seq=seq, data=seq, timestamp=0)

    async def gone(self) -> None:
        """Until the client has closed."""
        await self.socket.wait_closed()


class Fake:
    """Each connection is served by the next script; before it, each answer stands for a request that is refused."""

    def __init__(self, *scripts: Script | tuple[int, dict[str, str]]) -> None:
        self._scripts = list(scripts)
        self._errors: list[BaseException] = []
        self.requests: list[Request] = []

    async def __aenter__(self) -> Self:
        self._server: SocketServer = await serve(
            self._serve, "127.0.0.1", 0, subprotocols=[PROTOCOL], process_request=self._refuse, ping_interval=None, close_timeout=1
        )
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/ws"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        if exception[0] is None and self._errors:
            raise self._errors[0]

    def _refuse(self, socket: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if not self._scripts:
            return socket.respond(HTTPStatus.NOT_FOUND, "no script is left")
        if isinstance(self._scripts[0], tuple):
            status, headers = self._scripts.pop(0)  # type: ignore[misc]
            response = socket.respond(HTTPStatus(status), "refused by the test")
            response.headers.update(headers)
            return response
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        try:
            await self._scripts.pop(0)(Connection(socket))  # type: ignore[operator]
        except Exception as error:
            self._errors.append(error)


class States:
    """What `on_state` was told, to be waited for."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, float]] = []
        self._changed = asyncio.Event()

    def __call__(self, state: str, why: str, retry_in: float) -> None:
        self.told.append((state, why, retry_in))
        self._changed.set()

    def of(self, state: str) -> list[tuple[str, float]]:
        return [(why, retry_in) for told, why, retry_in in self.told if told == state]

    async def until(self, state: str, count: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.of(state)) < count:
                self._changed.clear()
                await self._changed.wait()


async def next_event(client: Client) -> Event:
    async with asyncio.timeout(PATIENCE):
        return await anext(client.__aiter__())


async def next_that(client: Client, kind: type[Any]) -> Any:
    """The next of this type; what lies before it is passed over."""
    while True:
        event = await next_event(client)
        if isinstance(event, kind):
            return event


async def messages(client: Client, count: int) -> list[Any]:
    """The data of so many messages, which come without anything but `subscribed` and `read` between."""
    data: list[Any] = []
    while len(data) < count:
        event = await next_event(client)
        if isinstance(event, Message):
            data.append(event.data)
        else:
            assert isinstance(event, dict), event
    return data


def cut(client: Client) -> None:
    """As a network does it: without a word."""
    assert client._socket is not None
    client._socket.transport.abort()

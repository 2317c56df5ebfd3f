"""What a client asks of a server: commands, each with its answer. Numbers in brackets are sections of docs/protocol.md."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import msgpack
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from .channel import Position, ServerEvent

# So many may wait for their answers.
COMMANDS_MAX = 1000


class CampanileError(Exception):
    """`code` is the server's [10]; or, of a command, `disconnected`, `timeout`, `too_big`; of the client, `refused` or `closed`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Commands:
    """Each waits for a connection, if there is none, and for its answer; both together as long as the client's `command_timeout`."""

    def __init__(self, timeout: float) -> None:
        self._timeout, self._last_id = timeout, 0
        self._answers: dict[int, asyncio.Future[ServerEvent | None]] = {}
        # Commands may be sent: there is a connection, or there will be none.
        self._ready = asyncio.Event()
        # Set: there is a reason to read on.
        self._room = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._end: CampanileError | None = None

    async def publish(self, channel: str, data: Any, *, idempotency_key: str | None = None) -> ServerEvent:
        """With a key it is sent again after a reconnect; without one `disconnected` says that it was published or not."""
        again = idempotency_key is not None
        return await self._call("publish", again, channel=channel, data=data, idempotency_key=idempotency_key)

    async def history(
        self, channel: str, *, limit: int | None = None, since: Position | None = None, before: Position | None = None
    ) -> ServerEvent:
        begin, end = since and since._asdict(), before and before._asdict()
        return await self._call("history", channel=channel, limit=limit, since=begin, before=end)

    async def mark_read(self, channel: str, seq: int, epoch: int | None = None) -> ServerEvent:
        return await self._call("mark_read", channel=channel, seq=seq, epoch=epoch)

    async def unread(self, channels: Sequence[str]) -> ServerEvent:
        return await self._call("unread", channels=list(channels))

    async def presence(
        self, channel: str, *, members: bool = False, after: str | None = None, limit: int | None = None
    ) -> ServerEvent:
        return await self._call("presence", channel=channel, members=members, after=after, limit=limit)

    async def refresh(self, token: str) -> ServerEvent:
        """Another token of the same user in place of the present one [4.5]."""
        return await self._call("refresh", token=token)

    async def _call(self, kind: str, again: bool = True, **fields: Any) -> ServerEvent:
        if len(self._answers) >= COMMANDS_MAX:
            raise CampanileError("busy", f"{COMMANDS_MAX} commands wait for their answers")
        event: ServerEvent | None = None
        try:
            async with asyncio.timeout(self._timeout):
                while event is None:
                    await self._ready.wait()
                    if self._end is not None:
                        raise self._end
                    self._last_id = number = self._last_id + 1
                    self._answers[number] = answer = asyncio.get_running_loop().create_future()
                    # The answer may lie behind events that nobody reads before it has come.
                    self._room.set()
                    try:
                        await self._send({"type": kind, "id": number, **fields})
                        event = await answer
                    finally:
                        del self._answers[number]
                    if event is None and not again:
                        raise CampanileError("disconnected", f"the connection ended before the answer to {kind} came")
        except TimeoutError:
            raise CampanileError("timeout", f"no answer to {kind} within {self._timeout} seconds") from None
        if event["type"] == "error":
            raise CampanileError(event["code"], event["message"])
        return event

    async def _send(self, command: dict[str, Any]) -> None:
        message = msgpack.packb(command)
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):  # Whoever reads is told.
                await self._socket.send(message)

    def _answer(self, event: ServerEvent) -> bool:
        """Whether it was the answer to one of these."""
        answer = self._answers.get(event["id"]) if "id" in event else None
        if answer is None or answer.done():
            return False
        answer.set_result(event)
        return True

    def _forget_answers(self, error: CampanileError | None = None) -> None:
        """The connection has ended: whoever waits asks again, or says that it cannot; or fails with this."""
        for answer in list(self._answers.values()):
            if answer.done():
                continue
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)

"""The client: one connection after the other, and the channels over all of them. Numbers in brackets are sections of docs/protocol.md."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Literal, NoReturn, Self

import msgpack
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from .channel import Channel, Event, Position, ServerEvent, Stale
from .commands import CampanileError, Commands
from .reconnect import BACKOFF_MIN, Ended, ended

PROTOCOL = Subprotocol("campanile.v1.msgpack")
# In seconds. An attempt has so long to come to `connected`, a silent server to answer a ping, the provider to bring a token.
CONNECT_TIMEOUT, PONG_TIMEOUT, TOKEN_TIMEOUT = 10.0, 10.0, 30.0
# Seconds that a connection must have held for the failures before it to be forgotten.
HOLD = 10.0
# For which errors [10] a subscription that was there before is asked for again, and after how many seconds.
LATER = ("busy", "rate_limited", "bus_unavailable", "too_many_channels")
ASK_AGAIN_MIN, ASK_AGAIN_MAX = 1.0, 5.0
CHANNELS_PER_COMMAND = 128
TOKENS_REFUSED_MAX = 5
MESSAGE_BYTES_MAX = 16 << 20
log = logging.getLogger(__name__)

State = Literal["connecting", "connected", "waiting", "closed"]
TokenReason = Literal["connect", "expiring", "expired", "refused"]
TokenProvider = Callable[[TokenReason], Awaitable[str | None]]


class Client(Commands):
    """A context manager, and an asynchronous iterable of events. That ends with `close()`, or raises why another attempt is of no use."""

    def __init__(
        self,
        url: str,
        *,
        token: str | TokenProvider | None = None,
        on_state: Callable[[State, str, float], object] | None = None,
        events_max: int = 1000,
        command_timeout: float = 15.0,
        **websocket: Any,
    ) -> None:
        super().__init__(command_timeout)
        parse_uri(url)
        self._url, self._on_state, self._events_max, self._websocket = url, on_state, max(events_max, 1), websocket
        self._provider = token if callable(token) else None
        self._token: str | None = None if callable(token) else token
        self._token_reason: TokenReason = "connect"
        self._tokens_refused = self._failures = 0
        self._connected_at: float | None = None
        self._channels: dict[str, Channel] = {}
        # Who waits for the first `subscribed` of a channel.
        self._waiting: dict[str, asyncio.Future[ServerEvent]] = {}
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._spawn(self._run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while self._events or self._end is None:
            if self._events:
                self._room.set()
                yield self._events.popleft()
            else:
                self._arrived.clear()
                await self._arrived.wait()
        if self._end.code != "closed":
            raise self._end

    async def subscribe(
        self, channel: str, *, since: Position | None = None, latest: bool = False, max_rate: int | None = None, unread: bool = False
    ) -> ServerEvent:
        """Returns `subscribed` when messages flow, however long that takes. The subscription lasts until `unsubscribe`."""
        if not 0 < len(channel.encode()) <= 255:
            raise CampanileError("bad_channel", "the name of a channel has 1 to 255 bytes")
        if self._end is not None:
            raise self._end
        if channel in self._channels and channel not in self._waiting:
            raise CampanileError("already_subscribed", f"{channel} is subscribed to; unsubscribe before you ask for it otherwise")
        if channel not in self._channels:
            wanted = Channel(channel, latest, max_rate, unread, since)
            msgpack.packb(wanted.wish())  # What cannot be sent is to be no wish that each reconnect fails of.
            self._channels[channel], self._waiting[channel] = wanted, asyncio.get_running_loop().create_future()
            await self._ask_for([channel])
        return await asyncio.shield(self._waiting[channel])

    async def unsubscribe(self, channel: str) -> None:
        if self._channels.pop(channel, None) is not None:
            self._give_up(channel, CampanileError("closed", "unsubscribed meanwhile"))
            await self._send({"type": "unsubscribe", "channel": channel})

    async def _ask_for(self, names: Sequence[str], after: float = 0, release: bool = False) -> None:
        await asyncio.sleep(after)
        wishes = [self._channels[name].wish() for name in names if name in self._channels and not self._channels[name].live]
        for at in range(0, len(wishes), CHANNELS_PER_COMMAND):
            if release:
                await self._send({"type": "unsubscribe", "channel": wishes[at]["channel"]})
            await self._send({"type": "subscribe", "id": "subscribe", "channels": wishes[at : at + CHANNELS_PER_COMMAND]})

    async def _run(self) -> None:
        try:
            while True:
                self._tell("connecting")
                try:
                    await self._converse()
                except Exception as error:
                    end = self._judge(error)
                self._disconnect()
                self._tell("waiting", end.why, end.retry_in or 0)
                await asyncio.sleep(end.retry_in or 0)
        except CampanileError as error:
            self._end = error
        finally:
            self._end = self._end or CampanileError("closed", "close() was called")
            self._disconnect()
            for name in list(self._waiting):
                self._give_up(name, self._end)
            self._ready.set()
            self._arrived.set()
            self._tell("closed", str(self._end))

    async def _converse(self) -> NoReturn:
        """One connection. However it ends, it is an exception."""
        if self._provider is not None and self._token is None:
            async with asyncio.timeout(TOKEN_TIMEOUT):
                self._token = await self._provider(self._token_reason)
        options = {"open_timeout": CONNECT_TIMEOUT, "close_timeout": 1, "ping_interval": None, "max_size": MESSAGE_BYTES_MAX} | self._websocket
        if self._token is not None:
            options["additional_headers"] = {**options.get("additional_headers", {}), "Authorization": f"Bearer {self._token}"}
        async with open_socket(self._url, subprotocols=[PROTOCOL], **options) as socket:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                heartbeat = msgpack.unpackb(await socket.recv(decode=False))["heartbeat"]
            self._socket, self._connected_at, self._tokens_refused = socket, asyncio.get_running_loop().time(), 0
            self._ready.set()
            self._tell("connected")
            self._spawn(self._ask_for(list(self._channels)))
            while True:
                while len(self._events) >= self._events_max and not self._answers:
                    # What is not read here stays with the server, and its rule for slow readers.
                    self._room.clear()
                    await self._room.wait()
                message = await self._receive(socket, heartbeat)
                try:
                    self._handle(msgpack.unpackb(message, strict_map_key=False))
                except (KeyError, TypeError, ValueError) as error:
                    log.warning("what came is no event of the protocol: %r", error)

    async def _receive(self, socket: ClientConnection, heartbeat: float) -> bytes:
        try:
            async with asyncio.timeout(heartbeat):
                return await socket.recv(decode=False)
        except TimeoutError:
            async with asyncio.timeout(PONG_TIMEOUT):
                await socket.send(msgpack.packb({"type": "ping"}))
                return await socket.recv(decode=False)

    def _judge(self, error: Exception) -> Ended:
        """What follows from this end; raises if it is the last."""
        if self._connected_at is not None and asyncio.get_running_loop().time() - self._connected_at > HOLD:
            self._failures = 0
        end = ended(error, self._failures)
        self._failures += 1
        if end.token is not None:
            self._token, self._token_reason, self._tokens_refused = None, end.token, self._tokens_refused + 1
        if end.code == 1009 and self._answers:
            # One of these commands was larger than the server takes, so none is sent again.
            self._forget_answers(CampanileError("too_big", end.why))
            return end._replace(retry_in=random.uniform(0, BACKOFF_MIN))
        if end.retry_in is None or (end.token and self._provider is None) or self._tokens_refused > TOKENS_REFUSED_MAX:
            raise CampanileError("refused", end.why)
        return end

    def _disconnect(self) -> None:
        self._socket = self._connected_at = None
        self._ready.clear()
        self._forget_answers()
        for channel in self._channels.values():
            channel.live = False

    def _handle(self, event: ServerEvent) -> None:
        kind, name = event["type"], event.get("channel")
        if self._answer(event):
            return
        channel = self._channels.get(name) if isinstance(name, str) else None
        if kind == "subscribed" and channel is None and isinstance(name, str) and "id" not in event:
            # The server has subscribed this user by itself (`user_channel`).
            channel = self._channels[name] = Channel(name)
        if kind in ("subscribed", "notification", "gap"):
            if channel is not None:
                self._emit(*channel.take(event))
                if channel.live and channel.name in self._waiting:
                    self._waiting.pop(channel.name).set_result(event)
        elif kind == "error" and event.get("command") == "subscribe" and channel is not None and not channel.live:
            self._not_subscribed(channel.name, event["code"], event["message"])
        elif kind == "unsubscribed" and channel is not None and "reason" in event:
            self._lose(channel.name, event["reason"])
        elif kind == "expiring" and self._provider is not None:
            self._spawn(self._renew_token(self._provider))
        elif kind not in ("pong", "error", "unsubscribed", "expiring") and "id" not in event:
            self._emit(event)

    def _not_subscribed(self, name: str, code: str, message: str) -> None:
        if code == "already_subscribed":
            # By the server itself, which does not know from where on.
            self._spawn(self._ask_for([name], release=True))
        elif name in self._waiting:
            del self._channels[name]
            self._give_up(name, CampanileError(code, message))
        elif code in LATER:
            self._spawn(self._ask_for([name], after=random.uniform(ASK_AGAIN_MIN, ASK_AGAIN_MAX)))
        else:
            self._lose(name, code)

    def _lose(self, name: str, code: str) -> None:
        del self._channels[name]
        self._emit(Stale(name, "unsubscribed", code))

    def _give_up(self, name: str, error: CampanileError) -> None:
        if name in self._waiting:
            waiting = self._waiting.pop(name)
            waiting.set_exception(error)
            waiting.exception()  # Nobody may have stayed to be told.

    def _emit(self, *events: Event) -> None:
        if len(self._events) >= 10 * self._events_max:
            # Only while a command waits do so many come together.
            self._events = deque(Stale(name, "overrun") for name in self._channels)
        self._events.extend(events)
        self._arrived.set()

    async def _renew_token(self, provider: TokenProvider) -> None:
        async with asyncio.timeout(TOKEN_TIMEOUT):
            self._token = await provider("expiring")
        if self._token is not None:
            await self.refresh(self._token)

    def _tell(self, state: State, why: str = "", retry_in: float = 0) -> None:
        log.debug("%s %s %.3f", state, why, retry_in)
        if self._on_state is not None:
            try:
                self._on_state(state, why, retry_in)
            except Exception:
                log.exception("on_state has failed")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%r", error)

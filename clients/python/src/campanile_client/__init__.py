"""Campanile's client for asyncio: it keeps a connection, resumes each channel where it was, and says what was missed for good.

Numbers in brackets are sections of docs/protocol.md, the server's own page. Times are in seconds.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, NoReturn, Self, TypeAlias

import msgpack
import websockets
from websockets.uri import parse_uri

PROTOCOL, CHANNELS_PER_COMMAND = websockets.Subprotocol("campanile.v1.msgpack"), 128
CONNECT_TIMEOUT, PONG_TIMEOUT, TOKEN_TIMEOUT, TOKENS_REFUSED_MAX = 10.0, 10.0, 30.0, 5
# Each failure doubles what the next attempt may wait. What has lasted longer than all deadlines of an attempt was none.
BACKOFF_MIN, BACKOFF_MAX, HOLD = 1.0, 60.0, 60.0
# No server is believed that asks for more.
RETRY_AFTER_MAX, RECONNECT_IN_MAX = 600, 60
# After these errors [10] a subscription that was there before is asked for again.
LATER, ASK_AGAIN_MIN, ASK_AGAIN_MAX = ("busy", "rate_limited", "bus_unavailable", "too_many_channels"), 1.0, 5.0

State = Literal["connecting", "connected", "waiting", "closed"]
TokenReason = Literal["connect", "expiring", "expired", "refused"]
TokenProvider = Callable[[TokenReason], Awaitable[str | None]]
# As it came: its `type` and the fields of section 5.
ServerEvent = Mapping[str, Any]
Event: TypeAlias = "Message | Stale | ServerEvent"


class CampanileError(Exception):
    """`code` is the server's [10]; or, of a command, `disconnected`, `timeout`, `too_big`; of the client, `refused` or `closed`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Position:
    """Where a message stands in its channel. Numbers of different epochs cannot be compared [7]."""

    epoch: int
    seq: int


class Message(NamedTuple):
    """From one without a position nothing can resume [5.6]. The timestamp is the server's, in Unix milliseconds."""

    channel: str
    data: Any
    position: Position | None
    timestamp: int


class Stale(NamedTuple):
    """Messages were missed and will not come: load the state of the channel anew. README.md says what the reasons mean."""

    channel: str
    reason: Literal["gap", "epoch", "lost", "overrun", "unsubscribed"]
    detail: str = ""
    first: int | None = None
    last: int | None = None


@dataclass(slots=True)
class Channel:
    """A subscription over all connections, as it is asked for [4.1]; `since` moves with what comes."""

    channel: str
    since: Position | None = None
    latest: bool = False
    max_rate: int | None = None
    unread: bool = False

    def take(self, event: ServerEvent) -> Iterator[Event]:
        """What the program is told of a `subscribed`, `notification` or `gap`."""
        kind, name, kept = event["type"], self.channel, self.since
        if kind == "subscribed":
            begin = self.since = Position(event["epoch"], event["seq"])
            yield event
            # From where it was kept: nothing is missing, or a gap follows that names what is [7].
            if kept and kept != begin and not event["recovered"]:
                yield Stale(name, "lost" if kept.epoch == begin.epoch else "epoch")
        elif kept and kind == "gap":
            self.since = Position(kept.epoch, max(kept.seq, event["to"]))
            # After those that were asked for comes what shows the present state [5.7].
            if event["reason"] not in ("max_rate", "budget") or not (self.latest or self.max_rate):
                yield Stale(name, "gap", event["reason"], event["from"], event["to"])
        elif kept and "seq" not in event:
            yield Message(name, event["data"], None, event["timestamp"])
        elif kept and event["seq"] > kept.seq:
            if event["seq"] > kept.seq + 1:
                yield Stale(name, "lost", first=kept.seq + 1, last=event["seq"] - 1)
            self.since = Position(kept.epoch, event["seq"])
            yield Message(name, event["data"], self.since, event["timestamp"])


def after(error: Exception, failures: int) -> tuple[int, str, float | None]:
    """What has ended an attempt: a status [2.4], a close code [11] or 0; why; and when to come back. None: it would end the same way."""
    # The whole of the time is random ("full jitter"): those who were cut off together do not come back together.
    wait = random.uniform(0, min(BACKOFF_MAX, BACKOFF_MIN * 2 ** min(failures, 16)))
    if isinstance(error, websockets.InvalidStatus):
        status, body = error.response.status_code, (error.response.body or b"").decode(errors="replace").strip()
        told = re.fullmatch(r"\d{1,9}", ",".join(error.response.headers.get_all("Retry-After")))
        wait += min(int(told[0]), RETRY_AFTER_MAX) if told else 0
        return status, f"{status}: {body}", wait if status in (401, 408, 429) or status >= 500 else None
    closed = error if isinstance(error, websockets.ConnectionClosed) else None
    if closed is None or closed.rcvd is None or closed.rcvd_then_sent is False:
        # Where the library has closed as a message is larger than `max_size`, it would come again.
        is_too_large = closed is not None and closed.sent is not None and closed.sent.code == 1009
        return 0, str(error) or "no answer in time", None if is_too_large else wait
    told = re.fullmatch(r"reconnect in (\d{1,9}) ms", closed.rcvd.reason) if closed.rcvd.code == 1012 else None
    wait = min(int(told[1]) / 1000, RECONNECT_IN_MAX) if told else wait
    return closed.rcvd.code, str(error), None if closed.rcvd.code in (1002, 1007, 1008, 1009, 4002) else wait


class Client:
    """A context manager, and an asynchronous iterable of events. That ends with `close()`, or raises why another attempt is of no use."""

    def __init__(
        self,
        url: str,
        *,
        token: str | TokenProvider | None = None,
        on_state: Callable[[State, str, float], object] = lambda state, why, retry_in: None,
        events_max: int = 1000,
        command_timeout: float = 15.0,
        **websocket: Any,
    ) -> None:
        parse_uri(url)
        self._url, self._websocket, self._on_state, self._timeout = url, websocket, on_state, command_timeout
        self._events_max = max(events_max, 1)
        self._provider = token if callable(token) else None
        self._token = None if callable(token) else token
        self._channels: dict[str, Channel] = {}
        # Of these `subscribed` has come on this connection.
        self._live: set[str] = set()
        # What waits for its answer: the first `subscribe` of a channel by its name, other commands by their `id`.
        self._pending: dict[int | str, tuple[dict[str, Any], asyncio.Future[ServerEvent]]] = {}
        self._last_id = 0
        # None: there will be no more.
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        # Set where there is room for another event, or an answer that may lie behind it.
        self._read_on = asyncio.Event()
        self._socket: websockets.ClientConnection | None = None
        self._end: CampanileError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._spawn(self._run())
        await asyncio.sleep(0)  # What has begun also says how it ends.
        return self

    async def close(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    __aexit__ = close

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            self._read_on.set()
            yield event
        self._events.put_nowait(None)
        if self._end and self._end.code != "closed":
            raise self._end

    async def subscribe(
        self, channel: str, *, since: Position | None = None, latest: bool = False, max_rate: int | None = None, unread: bool = False
    ) -> ServerEvent:
        """Returns `subscribed` when messages flow, however long that takes. The subscription lasts until `unsubscribe`, waited for or not."""
        if not 0 < len(channel.encode()) <= 255:
            raise CampanileError("bad_channel", "the name of a channel has 1 to 255 bytes")
        if channel in self._channels:
            raise CampanileError("already_subscribed", f"{channel} is subscribed to; unsubscribe before you ask for it otherwise")
        wanted = self._channels[channel] = Channel(channel, since, latest, max_rate, unread)
        return await self._ask(channel, {"type": "subscribe", "id": 0, "channels": [wanted]}, None)

    async def unsubscribe(self, channel: str) -> None:
        if self._channels.pop(channel, None):
            self._live.discard(channel)
            self._settle(channel, CampanileError("closed", "unsubscribed meanwhile"))
            await self._send({"type": "unsubscribe", "id": 0, "channel": channel})

    async def publish(self, channel: str, data: Any, *, idempotency_key: str | None = None) -> ServerEvent:
        """With a key it is sent again after a reconnect; without one `disconnected` says that it was published or not."""
        return await self._call("publish", channel=channel, data=data, idempotency_key=idempotency_key)

    async def history(
        self, channel: str, *, limit: int | None = None, since: Position | None = None, before: Position | None = None
    ) -> ServerEvent:
        return await self._call("history", channel=channel, limit=limit, since=since, before=before)

    async def mark_read(self, channel: str, seq: int, epoch: int | None = None) -> ServerEvent:
        return await self._call("mark_read", channel=channel, seq=seq, epoch=epoch)

    async def unread(self, channels: Sequence[str]) -> ServerEvent:
        return await self._call("unread", channels=list(channels))

    async def presence(self, channel: str, *, members: bool = False, after: str | None = None, limit: int | None = None) -> ServerEvent:
        return await self._call("presence", channel=channel, members=members, after=after, limit=limit)

    async def refresh(self, token: str) -> ServerEvent:
        """Another token of the same user in place of the present one [4.5]."""
        return await self._call("refresh", token=token)

    async def _call(self, kind: str, **fields: Any) -> ServerEvent:
        number = self._last_id = self._last_id + 1
        return await self._ask(number, {"type": kind, "id": number, **fields}, self._timeout)

    async def _ask(self, key: int | str, command: dict[str, Any], timeout: float | None) -> ServerEvent:
        """Sends it, now or once there is a connection, and waits for the answer."""
        if self._end:
            raise self._end
        answer: asyncio.Future[ServerEvent] = asyncio.get_running_loop().create_future()
        self._pending[key] = command, answer
        self._read_on.set()
        try:
            async with asyncio.timeout(timeout):
                await self._send(command)
                return await answer
        except TimeoutError:
            raise CampanileError("timeout", f"no answer to {command['type']} within {timeout} seconds") from None
        finally:
            self._pending.pop(key, None)

    async def _send(self, *commands: dict[str, Any]) -> None:
        for message in [msgpack.packb(command, default=asdict) for command in commands]:
            if self._socket:
                with suppress(websockets.ConnectionClosed):  # Whoever reads is told.
                    await self._socket.send(message)

    async def _resume(self, names: Sequence[str], delay: float = 0) -> None:
        await asyncio.sleep(delay)
        channels = [self._channels[name] for name in names if name in self._channels and name not in self._live]
        parts = [channels[at : at + CHANNELS_PER_COMMAND] for at in range(0, len(channels), CHANNELS_PER_COMMAND)]
        await self._send(*[{"type": "subscribe", "id": 0, "channels": part} for part in parts])

    async def _run(self) -> None:
        """One connection after the other, until the next would end the same way."""
        reason: TokenReason = "connect"
        failures, refused, end = 0, 0, CampanileError("closed", "close() was called")
        try:
            while True:
                self._tell("connecting")
                began = time.monotonic()
                try:
                    await self._converse(reason)
                except Exception as error:
                    failures, refused = (failures, refused) if time.monotonic() - began < HOLD else (0, 0)
                    code, why, wait = after(error, failures)
                failures += 1
                if code in (401, 4001):
                    self._token, reason, refused = None, "refused" if code == 401 else "expired", refused + 1
                    wait = wait if self._provider and refused <= TOKENS_REFUSED_MAX else None
                if code == 1009 and self._fail("too_big", why, lambda command: command["type"] != "subscribe"):
                    # One of these was larger than the server takes, so none is sent again.
                    wait = BACKOFF_MIN
                self._disconnect(why)
                if wait is None:
                    end = CampanileError("refused", why)
                    return
                self._tell("waiting", why, wait)
                await asyncio.sleep(wait)
        finally:
            self._end = end
            self._disconnect(str(end))
            self._fail(end.code, str(end), lambda command: True)
            self._events.put_nowait(None)
            self._tell("closed", str(end))

    async def _converse(self, reason: TokenReason) -> NoReturn:
        if self._provider and self._token is None:
            await self._renew(self._provider, reason)
        options = {"open_timeout": CONNECT_TIMEOUT, "close_timeout": 1, "ping_interval": None, "max_size": 16 << 20} | self._websocket
        if self._token is not None:
            options["additional_headers"] = {**dict(options.get("additional_headers", {})), "Authorization": f"Bearer {self._token}"}
        async with websockets.connect(self._url, subprotocols=[PROTOCOL], **options) as socket:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                heartbeat = msgpack.unpackb(await socket.recv(decode=False))["heartbeat"]
            self._socket = socket
            self._tell("connected")
            self._spawn(self._resume(list(self._channels)))
            self._spawn(self._send(*[command for key, (command, _) in self._pending.items() if isinstance(key, int)]))
            while True:
                if self._events.qsize() >= self._events_max and not self._pending:
                    # What is not read here stays with the server, and its rule for slow readers.
                    self._read_on.clear()
                    await self._read_on.wait()
                try:
                    async with asyncio.timeout(heartbeat):
                        message = await socket.recv(decode=False)
                except TimeoutError:
                    async with asyncio.timeout(PONG_TIMEOUT):
                        await self._send({"type": "ping", "id": 0})
                        message = await socket.recv(decode=False)
                try:
                    self._handle(msgpack.unpackb(message, strict_map_key=False))
                except (KeyError, TypeError, ValueError) as error:
                    logging.getLogger(__name__).warning("what came is no event of the protocol: %r", error)

    def _disconnect(self, why: str) -> None:
        self._socket = None
        self._live.clear()
        self._fail("disconnected", why, lambda command: command["type"] == "publish" and command["idempotency_key"] is None)

    def _fail(self, code: str, why: str, which: Callable[[dict[str, Any]], bool]) -> bool:
        return any([self._settle(key, CampanileError(code, why)) for key, (command, _) in list(self._pending.items()) if which(command)])

    def _settle(self, key: Any, answer: ServerEvent | CampanileError) -> bool:
        """Whether somebody has waited for it."""
        _, waiting = self._pending.pop(key, (None, None))
        if waiting and not waiting.done():
            waiting.set_exception(answer) if isinstance(answer, CampanileError) else waiting.set_result(answer)
        return waiting is not None

    def _handle(self, event: ServerEvent) -> None:
        kind, name = event["type"], event.get("channel", "")
        answer = CampanileError(event["code"], event["message"]) if kind == "error" else event
        if self._settle(event.get("id"), answer):
            return
        if kind == "subscribed" and "id" not in event and name not in self._channels:
            # By the server itself (`user_channel`).
            self._channels[name] = Channel(name)
        channel, live = self._channels.get(name), name in self._live
        match kind:
            case "subscribed" if channel:
                # Without `id`, as the connection opens, it is the server's own doing: what was missed before is still to be asked for.
                if live or "id" in event or channel.since in (None, Position(event["epoch"], event["seq"])):
                    self._live.add(name)
                    self._emit(*channel.take(event))
                    self._settle(name, event)
            case "notification" | "gap" if channel and live:
                self._emit(*channel.take(event))
            case "error" if channel and not live and event.get("command") == "subscribe":
                if event["code"] == "already_subscribed":
                    # By the server itself, which does not know from where on.
                    self._spawn(self._send({"type": "unsubscribe", "id": 0, "channel": name}))
                    self._spawn(self._resume([name]))
                elif self._settle(name, answer):
                    del self._channels[name]
                elif event["code"] in LATER:
                    self._spawn(self._resume([name], random.uniform(ASK_AGAIN_MIN, ASK_AGAIN_MAX)))
                else:
                    self._lose(name, event["code"])
            case "unsubscribed" if channel and "reason" in event:
                self._lose(name, event["reason"])
            case "expiring" if self._provider:
                self._spawn(self._renew(self._provider, "expiring"))
            case _ if "id" not in event and kind not in ("notification", "gap", "error", "unsubscribed", "expiring"):
                self._emit(event)

    def _lose(self, name: str, code: str) -> None:
        del self._channels[name]
        self._live.discard(name)
        self._emit(Stale(name, "unsubscribed", code))

    def _emit(self, *events: Event) -> None:
        if self._events.qsize() >= 10 * self._events_max:
            # Only while a command waits do so many come together.
            self._events = asyncio.Queue()
            events = (*[Stale(name, "overrun") for name in self._channels], *events)
        for event in events:
            self._events.put_nowait(event)

    async def _renew(self, provider: TokenProvider, reason: TokenReason) -> None:
        async with asyncio.timeout(TOKEN_TIMEOUT):
            self._token = await provider(reason)
        if self._token is not None and reason == "expiring":
            await self.refresh(self._token)

    def _tell(self, state: State, why: str = "", retry_in: float = 0) -> None:
        # Apart from what goes on here: where it fails, this goes on.
        asyncio.get_running_loop().call_soon(self._on_state, state, why, retry_in)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


connect = Client

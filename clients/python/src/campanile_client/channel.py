"""What a program is told of a channel, and what the client knows of one. No socket and no clock: the server's events go in, the program's come out.

Numbers in brackets are sections of docs/protocol.md, the server's own page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class Position(NamedTuple):
    """Where a message stands in its channel. Numbers of different epochs cannot be compared [7]."""

    epoch: int
    seq: int


class Message(NamedTuple):
    channel: str
    data: Any
    position: Position | None
    """None: it has no number, and nothing can resume from it [5.6]."""
    timestamp: int
    """When the server received it, Unix milliseconds."""


class Stale(NamedTuple):
    """Messages were missed and will not come: load the state of the channel anew.

    * `gap`: the server names them, and in `detail` why [5.7].
    * `epoch`: numbering began again; how many were missed cannot be told.
    * `lost`: the server does not know the position, or some are missing without a word.
    * `overrun`: the program did not come to read its events.
    * `unsubscribed`: this client may not have the channel any more, `detail` is the code; nothing follows.
    """

    channel: str
    reason: Literal["gap", "epoch", "lost", "overrun", "unsubscribed"]
    detail: str = ""
    first: int | None = None
    last: int | None = None


ServerEvent = Mapping[str, Any]
"""An event as it came: its `type` and the fields of section 5."""

Event = Message | Stale | ServerEvent

# Of these a message follows that shows the present state.
_PASSED_OVER = ("max_rate", "budget")


@dataclass(slots=True)
class Channel:
    """A subscription, over all connections."""

    name: str
    latest: bool = False
    max_rate: int | None = None
    unread: bool = False
    # What a resume begins after. Known while `live`.
    position: Position | None = None
    # The server has said `subscribed` on this connection: what comes belongs to it.
    live: bool = False

    def wish(self) -> dict[str, Any]:
        """One of the `channels` of a `subscribe` [4.1]."""
        since = self.position and self.position._asdict()
        return {"channel": self.name, "latest": self.latest, "max_rate": self.max_rate, "unread": self.unread, "since": since}

    def take(self, event: ServerEvent) -> Iterator[Event]:
        """`subscribed`, `notification` or `gap` of this channel."""
        match event["type"]:
            case "subscribed":
                yield from self._begin(event, Position(event["epoch"], event["seq"]), event["recovered"])
            case "notification" if self.position is not None and self.live:
                yield from self._message(event, self.position)
            case "gap" if self.position is not None and self.live:
                yield from self._gap(event, self.position)

    def _begin(self, event: ServerEvent, begin: Position, recovered: bool) -> Iterator[Event]:
        kept = self.position
        if not self.live and "id" not in event and kept not in (None, begin):
            # The server's own doing as the connection opened: what was missed before is still to be asked for.
            return
        self.position, self.live = begin, True
        yield event
        # From where it was kept: nothing is missing, or a gap follows that names what is [7].
        if kept is not None and kept != begin and not recovered:
            yield Stale(self.name, "lost" if kept.epoch == begin.epoch else "epoch")

    def _message(self, event: ServerEvent, kept: Position) -> Iterator[Event]:
        position, data, timestamp = None, event["data"], event["timestamp"]
        if (seq := event.get("seq")) is not None:
            if seq <= kept.seq:
                return
            if seq > kept.seq + 1:
                yield Stale(self.name, "lost", first=kept.seq + 1, last=seq - 1)
            position = self.position = Position(kept.epoch, seq)
        yield Message(self.name, data, position, timestamp)

    def _gap(self, event: ServerEvent, kept: Position) -> Iterator[Event]:
        first, last, reason = event["from"], event["to"], event["reason"]
        self.position = Position(kept.epoch, max(kept.seq, last))
        if reason not in _PASSED_OVER or not (self.latest or self.max_rate):
            yield Stale(self.name, "gap", reason, first, last)

"""When to connect again, and whether, after a connection or an attempt has ended. Numbers in brackets are sections of docs/protocol.md."""

from __future__ import annotations

import random
import re
from typing import Literal, NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidStatus

# Seconds: the next attempt comes within the first, doubled with each failure.
BACKOFF_MIN, BACKOFF_MAX = 1.0, 60.0
# No server is believed that asks for more, in seconds.
RETRY_AFTER_MAX, RECONNECT_IN_MAX = 600, 60

# Closes [11] after which it would end the same way.
_FOR_GOOD = (1002, 1007, 1008, 1009, 4002)
# Statuses below 500 that pass [2.4].
_PASSING = (401, 408, 429)


class Ended(NamedTuple):
    code: int
    """A status [2.4] or a close code [11]; 0: there was neither."""
    why: str
    retry_in: float | None
    """In seconds. None: it would end the same way."""

    @property
    def token(self) -> Literal["refused", "expired"] | None:
        """What was wrong with the token, if that was it."""
        return "refused" if self.code == 401 else "expired" if self.code == 4001 else None


def ended(error: Exception, failures: int) -> Ended:
    """What this end means after so many failures in a row."""
    # The whole of the time is random ("full jitter"): those who were cut off together do not come back together.
    jitter = random.uniform(0, min(BACKOFF_MAX, BACKOFF_MIN * 2 ** min(failures, 16)))
    if isinstance(error, InvalidStatus):
        status, headers = error.response.status_code, error.response.headers
        body = (error.response.body or b"").decode(errors="replace").strip()
        after = re.fullmatch(r"\d{1,9}", ",".join(headers.get_all("Retry-After")))
        wait = min(int(after[0]), RETRY_AFTER_MAX) if after else 0
        return Ended(status, f"{status}: {body}", wait + jitter if status in _PASSING or status >= 500 else None)
    if not isinstance(error, ConnectionClosed):
        return Ended(0, str(error) or "no answer in time", jitter)
    close = error.rcvd or error.sent
    if close is None:
        return Ended(0, str(error), jitter)
    if not error.rcvd_then_sent:
        # The library has closed, as it could not take what came.
        too_big = "a message is larger than max_size; give connect() a larger one"
        return Ended(0, too_big, None) if close.code == 1009 else Ended(0, str(error), jitter)
    if close.code in _FOR_GOOD:
        return Ended(close.code, str(error), None)
    told = re.fullmatch(r"reconnect in (\d{1,9}) ms", close.reason)
    if close.code == 1012 and told:
        return Ended(close.code, str(error), min(int(told[1]) / 1000, RECONNECT_IN_MAX))
    return Ended(close.code, str(error), jitter)

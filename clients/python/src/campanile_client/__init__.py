"""Campanile's client for asyncio: it keeps a connection, resumes each channel where it was, and says what was missed for good.

    async with connect("wss://push.example.org/ws") as client:
        await client.subscribe("news")
        async for event in client:
            ...  # a Message; or Stale: load the state of that channel anew; or what else the server tells, as a map
"""

from .channel import Event, Message, Position, ServerEvent, Stale
from .client import Client, State, TokenProvider, TokenReason
from .commands import CampanileError

connect = Client

__all__ = [
    "CampanileError",
    "Client",
    "Event",
    "Message",
    "Position",
    "ServerEvent",
    "Stale",
    "State",
    "TokenProvider",
    "TokenReason",
    "connect",
]

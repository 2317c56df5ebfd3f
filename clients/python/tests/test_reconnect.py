"""When the client comes back, what it asks for then, and what it tells: against a server that does as it is told."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import unittest
from pathlib import Path
from typing import Any
from unittest.mock import patch

import campanile_client
from campanile_client import CampanileError, Client, Message, Position, Stale, connect
from support import PATIENCE, Connection, Fake, Script, States, cut, messages, next_event, next_that


def closes(code: int, reason: str = "") -> Script:
    async def script(server: Connection) -> None:
        await server.connected()
        await server.socket.close(code, reason)

    return script


async def holds(server: Connection) -> None:
    await server.connected()
    await server.gone()


async def ended(client: Client) -> CampanileError:
    """Why it does not go on."""
    try:
        await next_event(client)
    except CampanileError as error:
        return error
    raise AssertionError("it goes on")


class TestReconnect(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        # Nothing here is about how long these are.
        for name in ["BACKOFF_MIN", "ASK_AGAIN_MIN", "ASK_AGAIN_MAX"]:
            patcher = patch.object(campanile_client, name, 0.001)
            patcher.start()
            self.addCleanup(patcher.stop)

    async def waits(self, *scripts: Any) -> list[tuple[str, float]]:
        """Why, and for how long, the client waits after each of these, until a connection holds."""
        states = States()
        async with Fake(*scripts, holds) as fake, connect(fake.url, on_state=states):
            await states.until("connected", 1 + sum(not isinstance(script, tuple) for script in scripts))
        return states.of("waiting")

    async def test_what_the_server_says_of_when_is_heeded(self) -> None:
        with patch.object(campanile_client, "RETRY_AFTER_MAX", 0.05):
            waits = await self.waits((503, {"Retry-After": "7"}), (429, {"Retry-After": "soon"}), (502, {}), (408, {}))
        self.assertEqual([why[:3] for why, _ in waits], ["503", "429", "502", "408"])
        self.assertTrue(0.05 <= waits[0][1] and max(wait for _, wait in waits[1:]) < 0.05, waits)
        waits = await self.waits(closes(1012, "reconnect in 37 ms"), closes(1001), closes(1012, "no number"), closes(1000), closes(4029))
        self.assertEqual(waits[0][1], 0.037)
        self.assertTrue(all(wait < 0.037 for _, wait in waits[1:]), waits)
        with patch.object(campanile_client, "RECONNECT_IN_MAX", 0.05):
            self.assertEqual((await self.waits(closes(1012, "reconnect in 999999999 ms")))[0][1], 0.05)

    def test_waits_are_random_and_bounded(self) -> None:
        for failures, most in [(0, 1.0), (3, 8.0), (6, 60.0), (10**6, 60.0)]:
            with patch.object(campanile_client, "BACKOFF_MIN", 1.0):
                waits = [campanile_client.after(OSError("gone"), failures)[2] or 0 for _ in range(300)]
            self.assertTrue(0 <= min(waits) < most / 4 and most / 2 < max(waits) <= most, (failures, min(waits), max(waits)))

    async def test_where_it_would_end_the_same_way_the_client_ends(self) -> None:
        ends: list[Any] = [closes(1002, "why"), closes(1008, "why"), closes(1009, "why"), closes(4002, "why"), (400, {}), (403, {}), (404, {})]
        for script in ends:
            async with Fake(script) as fake, connect(fake.url) as client:
                error = await ended(client)
                self.assertEqual(error.code, "refused")
                self.assertRegex(str(error), "why|refused by the test")
                for call in [client.subscribe("news"), client.publish("news", 1)]:
                    with self.assertRaises(CampanileError):
                        await call
                self.assertEqual(len(fake.requests), 1)

    async def test_a_message_that_is_too_large_for_the_program_ends_it(self) -> None:
        async def script(server: Connection) -> None:
            await server.connected()
            await server.tell(type="notification", channel="a", seq=1, data="x" * 1000, timestamp=0)
            await server.gone()

        async with Fake(script) as fake, connect(fake.url, max_size=500) as client:
            self.assertRegex(str(await ended(client)), "1009.*exceeds limit of 500 bytes")

    async def test_an_on_state_that_fails_ends_nothing(self) -> None:
        def on_state(state: str, why: str, retry_in: float) -> None:
            raise ValueError(state)

        failed = States()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed(str(context["exception"]), "", 0))
        async with Fake(closes(1001), holds) as fake, connect(fake.url, on_state=on_state):
            await failed.until("connected", 2)
        states = ["connecting", "connected", "waiting", "connecting", "connected", "closed"]
        self.assertEqual([state for state, _, _ in failed.told], states)

    async def test_a_client_that_is_closed_at_once_says_so(self) -> None:
        async with connect("ws://127.0.0.1:1/ws") as client:
            pass
        self.assertEqual([event async for event in client], [])
        with self.assertRaises(CampanileError):
            await client.history("a")

    async def test_another_token_is_asked_for(self) -> None:
        reasons: list[str] = []

        async def provider(reason: str) -> str:
            reasons.append(reason)
            if len(reasons) == 1:
                raise OSError("no token today")
            return f"token-{len(reasons)}"

        states = States()
        async with Fake((401, {}), closes(4001, "expired"), closes(1001), holds) as fake:
            async with connect(fake.url, token=provider, on_state=states) as client:
                await states.until("connected", 3)
                self.assertIsNone(client._end)
            self.assertEqual(reasons, ["connect", "connect", "refused", "expired"])
            sent = [request.headers["Authorization"] for request in fake.requests]
            self.assertEqual(sent, ["Bearer token-2", "Bearer token-3", "Bearer token-4", "Bearer token-4"])
        for headers in [{"X-Of": "ours"}, [("X-Of", "ours")]]:
            async with Fake((400, {})) as fake, connect(fake.url, token="t", additional_headers=headers) as client:
                await ended(client)
                self.assertEqual([fake.requests[0].headers[name] for name in ["X-Of", "Authorization"]], ["ours", "Bearer t"])
        refused: list[Any] = [(401, {})] * 9
        async with Fake(*refused) as fake, connect(fake.url, token=provider) as client:
            self.assertRegex(str(await ended(client)), "401")
            self.assertEqual(len(fake.requests), 1 + campanile_client.TOKENS_REFUSED_MAX)

    async def test_a_silent_server_is_asked_and_given_up(self) -> None:
        pings = 0

        async def answers_once(server: Connection) -> None:
            nonlocal pings
            await server.connected(heartbeat=0.02)
            await server.command("ping")
            pings += 1
            # What ends in vain ends soon; all else may take its time.
            campanile_client.PONG_TIMEOUT = 0.01
            await server.tell(type="pong", id=0)
            await server.command("ping")
            await server.gone()

        async def says_nothing(server: Connection) -> None:
            await server.gone()

        states = States()

        def on_state(state: str, why: str, retry_in: float) -> None:
            states(state, why, retry_in)
            campanile_client.CONNECT_TIMEOUT = 0.01 if len(states.of("connecting")) == 2 else PATIENCE

        with patch.object(campanile_client, "PONG_TIMEOUT", PATIENCE), patch.object(campanile_client, "CONNECT_TIMEOUT", PATIENCE):
            async with Fake(answers_once, says_nothing, holds) as fake:
                async with connect(fake.url, on_state=on_state, open_timeout=PATIENCE):
                    await states.until("connected", 2)
        self.assertEqual((pings, [why for why, _ in states.of("waiting")]), (1, ["no answer in time"] * 2))

    async def test_each_channel_is_resumed_where_it_was(self) -> None:
        async def first(server: Connection) -> None:
            await server.connected()
            await server.subscribed(seq=10)
            await server.notify("a", 11, 12)
            await server.tell(type="gap", channel="a", **{"from": 13, "to": 20}, reason="outage")
            await server.tell(type="notification", channel="a", data="unnumbered", timestamp=0)
            await server.gone()

        async def second(server: Connection) -> None:
            await server.connected()
            wishes = (await server.subscribed(seq=20, recovered=True))["channels"]
            assert [(one["channel"], one["since"], one["latest"]) for one in wishes] == [("a", {"epoch": 7, "seq": 20}, True)], wishes
            # What came before does not come again, and what does not come is told.
            await server.notify("a", 20, 21, 24)
            await server.gone()

        async with Fake(first, second) as fake, connect(fake.url) as client:
            await client.subscribe("a", latest=True)
            self.assertEqual(await messages(client, 2), [11, 12])
            self.assertEqual(await next_event(client), Stale("a", "gap", "outage", 13, 20))
            self.assertEqual(await next_that(client, Message), Message("a", "unnumbered", None, 0))
            cut(client)
            self.assertEqual((await next_that(client, Message)).position, Position(7, 21))
            self.assertEqual(await next_event(client), Stale("a", "lost", "", 22, 23))
            self.assertEqual(await next_that(client, Message), Message("a", 24, Position(7, 24), 0))

    async def test_what_cannot_be_resumed_is_stale(self) -> None:
        def begins(seq: int, epoch: int = 7) -> Script:
            async def script(server: Connection) -> None:
                await server.connected()
                await server.subscribed(seq, epoch)
                await server.socket.close(1001)

            return script

        async def is_refused(server: Connection) -> None:
            await server.connected()
            for code in ["busy", "rate_limited", "not_allowed"]:
                command = await server.command("subscribe")
                await server.tell(type="error", id=command["id"], command="subscribe", channel="a", code=code, message="no")
            await server.gone()

        async with Fake(begins(5), begins(3), begins(9, epoch=8), begins(9, epoch=8), is_refused) as fake, connect(fake.url) as client:
            await client.subscribe("a", since=Position(7, 5))
            seen = [await next_that(client, Stale) for _ in range(3)]
            self.assertEqual(seen, [Stale("a", "lost"), Stale("a", "epoch"), Stale("a", "unsubscribed", "not_allowed")])
            self.assertEqual(client._channels, {})

    async def test_gaps_that_were_asked_for_make_nothing_stale(self) -> None:
        async def script(server: Connection) -> None:
            await server.connected()
            # Both in one command.
            await server.subscribed(seq=0)
            for channel in ["all", "some"]:
                await server.tell(type="gap", channel=channel, **{"from": 1, "to": 4}, reason="max_rate")
                await server.notify(channel, 5)
            await server.gone()

        async with Fake(script) as fake, connect(fake.url) as client:
            await asyncio.gather(client.subscribe("all"), client.subscribe("some", max_rate=5))
            seen = [await next_event(client) for _ in range(5)]
            self.assertEqual([event for event in seen if isinstance(event, Stale)], [Stale("all", "gap", "max_rate", 1, 4)])
            self.assertEqual([event.channel for event in seen if isinstance(event, Message)], ["all", "some"])

    async def test_commands_are_sent_again_where_that_does_no_harm(self) -> None:
        async def ends(server: Connection) -> None:
            await server.connected()
            for kind in ["history", "publish", "publish"]:
                await server.command(kind)
            await server.socket.close(1001)

        async def answers(server: Connection) -> None:
            await server.connected()
            for _ in range(2):
                command = await server.command("history", "publish")
                if command["type"] == "history":
                    await server.tell(type="history", id=command["id"], channel="a", messages=[], more=False)
                else:
                    assert command["idempotency_key"] == "key", command
                    await server.tell(type="published", id=command["id"], channel="a", seq=1)
            await server.gone()

        async with Fake(ends, answers) as fake, connect(fake.url) as client:
            history, alone, keyed = await asyncio.gather(
                client.history("a"), client.publish("a", 1), client.publish("a", 1, idempotency_key="key"), return_exceptions=True
            )
            assert isinstance(alone, CampanileError) and isinstance(history, dict) and isinstance(keyed, dict), (history, alone, keyed)
            self.assertEqual((alone.code, history["more"], keyed["seq"]), ("disconnected", False, 1))
        async with Fake(holds) as fake, connect(fake.url, command_timeout=0.05) as client:
            with self.assertRaises(CampanileError) as raised:
                await client.history("a")
            self.assertEqual((raised.exception.code, client._pending), ("timeout", {}))

    async def test_a_program_that_does_not_read_holds_the_server_back(self) -> None:
        told = 0

        async def floods(server: Connection) -> None:
            nonlocal told
            await server.connected()
            await server.subscribed(seq=0)
            for told in range(1, 201):
                await server.notify("a", told)
            command = await server.command("presence")
            await server.tell(type="presence", id=command["id"], channel="a", subscribers=1)
            await server.gone()

        async with Fake(floods) as fake, connect(fake.url, events_max=5) as client:
            await client.subscribe("a")
            async with asyncio.timeout(PATIENCE):
                while client._events.qsize() < 5:
                    await asyncio.sleep(0.001)
            # Nobody reads, but a command is answered; what is too much then is told to be missing.
            self.assertEqual((await client.presence("a"))["subscribers"], 1)
            self.assertLess(client._events.qsize(), 60)
            self.assertEqual(await next_that(client, Stale), Stale("a", "overrun"))

    async def test_what_is_no_event_of_the_protocol_disturbs_nothing(self) -> None:
        async def script(server: Connection) -> None:
            await server.connected()
            await server.subscribed(seq=0)
            garbage: list[str | bytes] = [b"", b"\xc1", b"\x90", b"\x01", "text", b"\x81\xa4type\x90", b"\x81\xa4type\xa3gap"]
            for message in garbage:
                await server.socket.send(message)
            await server.tell(type="gap", channel="a", **{"from": "x", "to": []}, reason=1)
            await server.tell(type="notification", channel="a", seq="x", data=1)
            await server.tell(type="subscribed", channel=["a"], epoch=1, seq=1, recovered=False)
            await server.tell(type="pong", id=[])
            await server.notify("a", 1)
            await server.gone()

        async with Fake(script) as fake, connect(fake.url) as client:
            with self.assertLogs("campanile_client", "WARNING"):
                await client.subscribe("a")
                self.assertEqual(await messages(client, 1), [1])
            self.assertEqual(list(client._channels), ["a"])

    async def test_the_vectors_of_the_protocol_in_any_order(self) -> None:
        page = Path(__file__).parents[3] / "docs" / "protocol.md"
        if not page.exists():
            self.skipTest("docs/protocol.md is not beside this package")
        vectors = re.findall(r"vector: event/.*\njson: (.*)", page.read_text(encoding="utf-8"))
        events = [json.loads(vector) for vector in vectors]
        self.assertGreater(len(events), 20)
        seed = int(os.environ.get("CAMPANILE_SEED", random.randrange(1 << 32)))
        lot = random.Random(seed)
        for _ in range(200):
            client = Client("ws://127.0.0.1:1/ws", events_max=10**6)
            for event in lot.choices(events, k=60):
                client._handle(event)
                if lot.random() < 0.1:
                    client._disconnect("cut")
            seen = dict[str, Position]()
            while not client._events.empty():
                told = client._events.get_nowait()
                if isinstance(told, Message) and told.position is not None:
                    kept = seen.get(told.channel)
                    same = kept is not None and kept.epoch == told.position.epoch
                    # Numbers go back only where a new beginning or a loss was told of between.
                    self.assertTrue(kept is None or not same or told.position.seq > kept.seq, f"seed {seed}: {told}")
                    seen[told.channel] = told.position
                elif isinstance(told, (Stale, dict)):
                    seen.pop(told.channel if isinstance(told, Stale) else told.get("channel", ""), None)
            for task in client._tasks:
                task.cancel()

    async def test_a_closed_client_ends_its_iteration(self) -> None:
        async with Fake(holds) as fake:
            client = connect(fake.url)
            async with client:
                waiting = asyncio.create_task(client.subscribe("a"))
                await asyncio.sleep(0)
            self.assertEqual([event async for event in client], [])
            with self.assertRaises(CampanileError):
                await waiting
        for address in ["http://127.0.0.1/ws", "nothing", "ws://"]:
            with self.assertRaises(Exception):
                connect(address)


if __name__ == "__main__":
    unittest.main()

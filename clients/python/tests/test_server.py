"""The client against the real server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import importlib.metadata
import json
import signal
import sys
import time
import unittest
from pathlib import Path
from typing import Any

import campanile_client
from campanile_client import CampanileError, Message, Position, Stale, connect
from support import PATIENCE, Campanile, States, cut, messages, next_event, next_that

FEEDS = """
allow_client_publish = true
[[channels]]
prefix = "feed:"
durable = true
history_count = 1000
history_age = 3600
presence = true
presence_members = 10
[[channels]]
prefix = "plain:"
"""
SECRET = "a secret of the tests: 0123456789abcdef"


def token(user: str, seconds: float) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head, claims = {"alg": "HS256", "typ": "JWT"}, {"sub": user, "exp": int(time.time() + seconds), "iat": int(time.time())}
    signed = ".".join(part(json.dumps(value).encode()) for value in (head, claims))
    return f"{signed}.{part(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"


class TestServer(unittest.IsolatedAsyncioTestCase):
    def test_what_is_tested_is_the_package_that_was_installed(self) -> None:
        self.assertTrue(campanile_client.__file__.startswith(sys.prefix), campanile_client.__file__)

    def test_the_licences_of_the_server_are_in_the_package(self) -> None:
        held = {file.name: file for file in importlib.metadata.files("campanile-client") or []}
        for name in ["LICENSE-APACHE", "LICENSE-MIT"]:
            original = Path(__file__).parents[3] / name
            if not original.exists():
                self.skipTest(f"{name} is not beside this package")
            self.assertEqual(held[name].read_text(), original.read_text())

    async def test_commands_are_answered(self) -> None:
        async with Campanile('auth = "query"\n' + FEEDS) as server:
            async with connect(server.url + "?user=ann") as client, connect(server.url + "?user=ann") as other:
                subscribed = await client.subscribe("feed:a", unread=True)
                self.assertEqual((subscribed["seq"], subscribed["recovered"]), (0, False))
                self.assertEqual((await client.publish("feed:a", {"n": [1, None, "é"]}))["seq"], 1)
                first = await next_that(client, Message)
                self.assertEqual((first.channel, first.data, first.position.seq), ("feed:a", {"n": [1, None, "é"]}, 1))
                self.assertLess(abs(first.timestamp - time.time() * 1000), 60_000)
                once = await client.publish("feed:a", 2, idempotency_key="key")
                again = await client.publish("feed:a", 2, idempotency_key="key")
                self.assertEqual((once["seq"], again["seq"], again["repeated"]), (2, 2, True))
                self.assertEqual(await messages(client, 1), [2])

                history = await client.history("feed:a", limit=1)
                self.assertEqual(([one["data"] for one in history["messages"]], history["more"]), ([2], True))
                history = await client.history("feed:a", before=Position(history["epoch"], 2))
                self.assertEqual([one["seq"] for one in history["messages"]], [1])
                history = await client.history("feed:a", since=first.position)
                self.assertEqual(([one["seq"] for one in history["messages"]], history["recovered"]), ([2], True))

                self.assertEqual((await other.unread(["feed:a", "feed:none"]))["channels"][0]["unread"], 2)
                self.assertEqual((await client.mark_read("feed:a", 1, first.position.epoch))["seq"], 1)
                read = await next_that(other, dict)
                self.assertEqual((read["type"], read["channel"], read["seq"]), ("read", "feed:a", 1))
                self.assertEqual((await other.unread(["feed:a"]))["channels"][0]["unread"], 1)
                subscribed = await other.subscribe("feed:a", latest=True, unread=True)
                self.assertEqual((subscribed["seq"], subscribed["unread"]), (1, 0))
                self.assertEqual(await messages(other, 1), [2])
                self.assertEqual((await other.subscribe("plain:a", max_rate=7))["max_rate"], 6)

                async with asyncio.timeout(PATIENCE):
                    # Who is there is told about once a second.
                    while (presence := await client.presence("feed:a", members=True))["members"] != ["ann"]:
                        await asyncio.sleep(0.05)
                self.assertEqual((presence["subscribers"], presence["more"]), (2, False))
                await client.unsubscribe("feed:a")
                await client.publish("feed:a", 3)
                await client.subscribe("feed:a", since=Position(first.position.epoch, 2))
                self.assertEqual(await messages(client, 1), [3])

    async def test_errors_have_their_codes(self) -> None:
        async with Campanile(FEEDS) as server, connect(server.url) as client:
            for code, ask in [
                ("bad_channel", client.subscribe("a\nb")),
                ("bad_channel", client.subscribe("x" * 256)),
                ("bad_command", client.subscribe("plain:a", max_rate=0)),
                ("not_durable", client.subscribe("plain:a", unread=True)),
                ("no_user", client.mark_read("feed:a", 1)),
                ("not_allowed", client.presence("plain:a")),
                ("bad_command", client.history("plain:a", limit=0)),
            ]:
                with self.assertRaises(CampanileError) as raised:
                    await ask
                self.assertEqual(raised.exception.code, code)
            await client.subscribe("plain:a")
            with self.assertRaises(CampanileError) as raised:
                await client.subscribe("plain:a")
            self.assertEqual(raised.exception.code, "already_subscribed")
            with self.assertRaises(TypeError):
                await client.publish("plain:a", object())
            # Larger than the server takes: the publish fails, and the client goes on.
            with self.assertRaises(CampanileError) as raised:
                await client.publish("plain:a", "x" * 100_000)
            self.assertEqual(raised.exception.code, "too_big")
            await client.publish("plain:a", 1)

    async def test_a_cut_loses_nothing(self) -> None:
        async with Campanile(FEEDS) as server, connect(server.url) as client:
            await client.subscribe("feed:a")
            await client.subscribe("feed:b")
            for n in range(3):
                cut(client)
                await server.publish("feed:a", 2 * n, 2 * n + 1)
                self.assertEqual(await messages(client, 2), [2 * n, 2 * n + 1])

    async def test_a_server_that_restarts_is_come_back_to(self) -> None:
        states = States()
        async with Campanile('data_dir = "data"\n' + FEEDS) as server, connect(server.url, on_state=states) as client:
            await client.subscribe("feed:a")
            await client.subscribe("plain:a")
            await server.publish("feed:a", 1)
            self.assertEqual(await messages(client, 1), [1])
            await server.stop(signal.SIGTERM)
            await states.until("waiting")
            why, retry_in = states.of("waiting")[0]
            self.assertRegex(why, "reconnect in [0-9]+ ms")
            self.assertLessEqual(retry_in, 60)
            await server.start()
            await server.publish("feed:a", 2)
            seen = [await next_event(client) for _ in range(4)]
            # The durable channel goes on; the other one begins anew, and what was missed of it nobody knows.
            self.assertEqual([event.data for event in seen if isinstance(event, Message)], [2])
            self.assertEqual([event for event in seen if isinstance(event, Stale)], [Stale("plain:a", "epoch")])

    async def test_tokens_are_asked_for_and_renewed(self) -> None:
        settings = f'auth = "jwt"\ntoken_secret = "{SECRET}"\nuser_channel = true\n[[channels]]\nprefix = "user:"\ndurable = true\n'
        reasons: list[str] = []
        renewed = asyncio.Event()

        async def provider(reason: str) -> str:
            reasons.append(reason)
            if reason == "expiring":
                renewed.set()
            return {"connect": "no.to.ken", "refused": token("ann", 30)}.get(reason, token("ann", 600))

        async with Campanile(settings + "history_count = 100\nhistory_age = 3600\n") as server:
            async with connect(server.url, token=provider) as client:
                first: Any = await next_event(client)
                # Nobody asked for it: the server subscribes its users to their own channels.
                self.assertEqual((first["type"], first["channel"]), ("subscribed", "user:ann"))
                async with asyncio.timeout(PATIENCE):
                    await renewed.wait()
                self.assertEqual(reasons, ["connect", "refused", "expiring"])
                # And it is resumed all the same.
                cut(client)
                await server.publish("user:ann", 1, 2)
                self.assertEqual(await messages(client, 2), [1, 2])
                await client.refresh(token("ann", 700))
                with self.assertRaises(CampanileError) as raised:
                    await client.refresh(token("ben", 700))
                self.assertEqual(raised.exception.code, "token_invalid")
            self.assertEqual(reasons[3:], [])
            async with connect(server.url, token="no.to.ken") as client:
                with self.assertRaises(CampanileError) as raised:
                    await client.subscribe("news")
                self.assertEqual(raised.exception.code, "refused")
                self.assertRegex(str(raised.exception), "401")
                with self.assertRaises(CampanileError):
                    await next_event(client)


if __name__ == "__main__":
    unittest.main()

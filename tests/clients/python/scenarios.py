"""One scenario with the `websockets` library: scenarios.py NAME FORMAT HOST:PORT REDIS_PORT. Called by tests/whole/clients.rs.

Exit code 0: the server did all that docs/protocol.md promises. Messages are published by redis-cli. node/scenarios.js is its twin.
"""

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
import time

import aiohttp
import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PATIENCE = 60
NAME, FORMAT, ADDRESS, REDIS_PORT = sys.argv[1:5]
PREFIX = "notifications:"
OPEN = contextlib.ExitStack()


class Client:
    """A connection whose events must all come in `format`."""

    def __init__(self, path="/ws", format=FORMAT, negotiate="subprotocol", **options):
        if negotiate == "subprotocol":
            options["subprotocols"] = [f"campanile.v1.{format}"]
        elif negotiate == "query":
            path += ("&" if "?" in path else "?") + f"format={format}"
        self.format = format
        options |= {"open_timeout": PATIENCE, "close_timeout": PATIENCE, "max_size": None, "max_queue": None}
        self.ws = OPEN.enter_context(connect(f"ws://{ADDRESS}{path}", **options))
        if negotiate == "subprotocol":
            assert self.ws.subprotocol == f"campanile.v1.{format}", self.ws.subprotocol

    def encoded(self, command):
        return msgpack.packb(command) if self.format == "msgpack" else json.dumps(command)

    def send(self, **command):
        self.ws.send(self.encoded(command))

    def event(self, type=None):
        message = self.ws.recv(timeout=PATIENCE)
        assert isinstance(message, bytes if self.format == "msgpack" else str), (self.format, message)
        event = msgpack.unpackb(message) if self.format == "msgpack" else json.loads(message)
        assert type is None or event["type"] == type, event
        return event

    def connected(self):
        event = self.event("connected")
        check_fields(event, "type client_id heartbeat timestamp")
        assert isinstance(event["client_id"], str) and event["client_id"] and event["heartbeat"] >= 1
        check_timestamp(event)
        return self

    def subscribed(self, channel, **expected):
        event = self.event("subscribed")
        check_fields(event, "type channel epoch seq recovered timestamp", expected)
        assert event["channel"] == channel and 0 <= event["epoch"] < 2**53, event
        assert event["recovered"] is expected.get("recovered", False), event
        check_timestamp(event)
        return event

    def notification(self, channel, seq, data):
        event = self.event("notification")
        check_fields(event, "type channel seq data timestamp", event if "encoding" in event else {})
        assert (event["channel"], event["seq"], event["data"]) == (channel, seq, data), event
        check_timestamp(event)
        return event

    def subscribe(self, channel, **more):
        self.send(type="subscribe", channel=channel, **more)
        return self.subscribed(channel, **{key: value for key, value in more.items() if key == "id"})

    def closed(self):
        """Code and reason with which the server closes."""
        try:
            while True:
                self.ws.recv(timeout=PATIENCE)
        except ConnectionClosed as closed:
            return closed.rcvd.code, closed.rcvd.reason


def check_fields(event, names, more=()):
    allowed = set(names.split()) | ({"id"} if "id" in more else set()) | ({"encoding"} if "encoding" in more else set())
    assert set(event) == allowed, (event, allowed)
    for name in more:
        assert name == "recovered" or event[name] == more[name], (name, event)


def check_timestamp(event):
    assert isinstance(event["timestamp"], int) and abs(event["timestamp"] - time.time() * 1000) < 60_000, event


def redis_cli(*arguments, stdin=b""):
    run = subprocess.run(["redis-cli", "-p", REDIS_PORT, *arguments], input=stdin, capture_output=True, timeout=PATIENCE, check=True)
    return run.stdout.decode()


def publish(channel, payload, receivers=1):
    payload = payload if isinstance(payload, bytes) else payload.encode()
    answer = redis_cli("-x", "PUBLISH", PREFIX + channel, stdin=payload)
    assert answer.strip() == str(receivers), f"Redis has {answer!r} receivers for {channel}"


def three_ways_to_subscribe():
    by_path = Client("/ws/news%2Fof/t%20day", negotiate="query").connected()
    by_path.subscribed("news/of/t day")
    by_query = Client("/ws?channel=one&channel=two+words&channel=one", negotiate="query").connected()
    assert sorted([by_query.event("subscribed")["channel"], by_query.event("subscribed")["channel"]]) == ["one", "two words"]
    by_command = Client().connected()
    by_command.subscribe("one", id=1)
    by_command.subscribe("user:ünï:✓", id="second")
    publish("news/of/t day", '{"a": [1, 2.5, null, "é"]}')
    publish("one", '{"n": 1}')
    publish("two words", '"text"')
    publish("user:ünï:✓", "[true]")
    by_path.notification("news/of/t day", 1, {"a": [1, 2.5, None, "é"]})
    by_query.notification("one", 1, {"n": 1})
    by_query.notification("two words", 1, "text")
    by_command.notification("one", 1, {"n": 1})
    by_command.notification("user:ünï:✓", 1, [True])


def payloads_of_every_kind():
    client = Client().connected()
    client.subscribe("kinds")
    publish("kinds", '{"big": 9007199254740993, "float": 1.0}')
    client.notification("kinds", 1, {"big": 9007199254740993, "float": 1.0})
    publish("kinds", msgpack.packb({"title": "Ding", "n": 300}))
    client.notification("kinds", 2, {"title": "Ding", "n": 300})
    publish("kinds", 'Ding "dong" é')
    client.notification("kinds", 3, 'Ding "dong" é')
    publish("kinds", b"\xff\x00\xfe\x01")
    if FORMAT == "msgpack":
        client.notification("kinds", 4, b"\xff\x00\xfe\x01")
    else:
        event = client.notification("kinds", 4, base64.b64encode(b"\xff\x00\xfe\x01").decode())
        assert event["encoding"] == "base64", event
    publish("kinds", msgpack.packb({"bin": b"\x01\x02"}))
    client.notification("kinds", 5, {"bin": b"\x01\x02" if FORMAT == "msgpack" else "AQI="})
    long = json.dumps(["x" * 70_000])
    publish("kinds", long)
    client.notification("kinds", 6, json.loads(long))
    assert redis_cli("PUBLISH", "notifications", "outside").strip() == "0"
    client.subscribe("notifications")
    assert redis_cli("PUBLISH", "notifications", "outside").strip() == "1"
    client.notification("notifications", 1, "outside")


def many_messages_in_order():
    clients = [Client().connected() for _ in range(3)]
    for client in clients:
        client.subscribe("burst")
    redis_cli(stdin="".join(f"PUBLISH {PREFIX}burst {n}\n" for n in range(1, 1001)).encode())
    for client in clients:
        for n in range(1, 1001):
            client.notification("burst", n, n)


def ids_and_unsubscribe():
    client, witness = Client().connected(), Client().connected()
    client.subscribe("room", id=0)
    client.subscribe("hall", id=2**53 - 1)
    witness.subscribe("room", id="x" * 64)
    publish("room", "1")
    client.notification("room", 1, 1)
    witness.notification("room", 1, 1)
    client.send(type="unsubscribe", channel="room", id="bye")
    event = client.event("unsubscribed")
    check_fields(event, "type channel timestamp id")
    assert (event["channel"], event["id"]) == ("room", "bye")
    publish("room", "2")
    witness.notification("room", 2, 2)
    publish("hall", "3")
    client.notification("hall", 1, 3)
    client.send(type="unsubscribe", channel="hall")
    check_fields(client.event("unsubscribed"), "type channel timestamp")
    assert client.subscribe("room", id=5)["seq"] == 2
    publish("room", "4")
    client.notification("room", 3, 4)


def pings_of_both_levels():
    client = Client(ping_interval=None).connected()
    assert client.ws.ping(b"are you there?").wait(PATIENCE)
    assert client.ws.ping(b"").wait(PATIENCE)
    client.send(type="ping", id="p")
    assert client.event() == {"type": "pong", "id": "p"}
    client.send(type="ping")
    assert client.event() == {"type": "pong"}
    # Its heartbeat is a second: the library answers the server's pings while it waits for this message, which is late.
    client.subscribe("late")
    time.sleep(3.5)
    publish("late", "1")
    client.notification("late", 1, 1)


def errors_have_their_codes():
    client = Client().connected()

    def error(code, id=None, message=None, **command):
        client.ws.send(message if message is not None else client.encoded({**command, **({"id": id} if id is not None else {})}))
        event = client.event("error")
        # Whoever sends no id still learns what failed.
        about = {"command": command["type"]} if "type" in command else {}
        if isinstance(command.get("channel"), str) and len(command["channel"]) <= 255:
            about["channel"] = command["channel"]
        check_fields(event, " ".join(["type code message", *about]), about | ({"id": id} if id is not None else {}))
        assert event["code"] == code and len(event["message"]) > 5, event

    error("bad_command", message="not json" if FORMAT == "json" else b"\xc1")
    error("bad_command", message="[]" if FORMAT == "json" else b"\x90")
    error("bad_command", id=3, channel="news")
    error("bad_command", id=4, type="subscribe")
    error("bad_command", id=5, type="subscribe", channel=["news"])
    error("unknown_type", id="u", type="dance")
    error("unknown_type", id="h", type="later", channel="news", limit=3)
    error("bad_channel", id=6, type="subscribe", channel="")
    error("bad_channel", id=7, type="subscribe", channel="x" * 256)
    error("bad_channel", id=8, type="subscribe", channel="a\nb")
    error("not_subscribed", id=9, type="unsubscribe", channel="news")
    error("not_allowed", id=10, type="publish", channel="news", data=1)
    client.subscribe("news")
    error("already_subscribed", id=11, type="subscribe", channel="news")
    client.subscribe("sport")
    error("too_many_subscriptions", id=12, type="subscribe", channel="weather")
    client.send(type="ping", unknown={"field": [1]}, id=13)
    assert client.event() == {"type": "pong", "id": 13}


def resume_after_a_reconnect():
    client, other = Client().connected(), Client().connected()
    position = client.subscribe("feed", id=1)
    other.subscribe("feed")
    for n in range(1, 4):
        publish("feed", str(n))
        client.notification("feed", n, n)
    client.ws.close()
    for n in range(4, 8):
        publish("feed", str(n))
    for n in range(1, 8):
        other.notification("feed", n, n)
    client = Client().connected()
    client.send(type="subscribe", channel="feed", id=2, since={"epoch": position["epoch"], "seq": 3})
    event = client.subscribed("feed", id=2, recovered=True)
    assert (event["epoch"], event["seq"]) == (position["epoch"], 3), event
    for n in range(4, 8):
        client.notification("feed", n, n)
    publish("feed", "8")
    client.notification("feed", 8, 8)
    # The history holds 10 messages and what shares a batch (of up to 64 KiB) with them; what is older is named by a gap.
    pad = "x" * 20_000
    redis_cli(stdin="".join(f"PUBLISH {PREFIX}feed {pad}{n}\n" for n in range(9, 31)).encode())
    # Nobody has missed any of it: what somebody still waits for is kept beyond the history.
    other.notification("feed", 8, 8)
    for reader in (client, other):
        for n in range(9, 31):
            reader.notification("feed", n, f"{pad}{n}")
    late = Client().connected()
    late.send(type="subscribe", channel="feed", since={"epoch": position["epoch"], "seq": 5})
    event = late.subscribed("feed", recovered=False)
    assert (event["epoch"], event["seq"]) == (position["epoch"], 5), event
    gap = late.event("gap")
    check_fields(gap, "type channel from to reason")
    assert (gap["channel"], gap["from"], gap["reason"]) == ("feed", 6, "expired") and 6 <= gap["to"] <= 20, gap
    for n in range(gap["to"] + 1, 31):
        late.notification("feed", n, f"{pad}{n}" if n > 8 else n)
    stranger = Client().connected()
    stranger.send(type="subscribe", channel="feed", since={"epoch": position["epoch"] ^ 1, "seq": 5})
    event = stranger.subscribed("feed", recovered=False)
    assert (event["epoch"], event["seq"]) == (position["epoch"], 30), event
    publish("feed", "31")
    stranger.notification("feed", 31, 31)


def subprotocols_are_negotiated():
    for offer, expected in [
        (["campanile.v1.msgpack"], "msgpack"),
        (["campanile.v1.json", "campanile.v1.msgpack"], "json"),
        (["graphql-ws", "campanile.v1.msgpack", "campanile.v1.json"], "msgpack"),
        (["graphql-ws"], None),
        (None, None),
    ]:
        # The subprotocol wins over the query.
        client = Client("/ws?format=msgpack" if expected == "json" else "/ws", expected or "json", negotiate="none", subprotocols=offer)
        assert client.ws.subprotocol == (expected and f"campanile.v1.{expected}"), (offer, client.ws.subprotocol)
        assert not client.ws.protocol.extensions, "no extension is offered"
        client.connected()


def the_first_command_chooses():
    client = Client(negotiate="none", format="json").connected()
    client.format = FORMAT
    client.send(type="subscribe", channel="choice", id=1)
    client.subscribed("choice", id=1)
    publish("choice", "1")
    client.notification("choice", 1, 1)
    # Chosen for good: a command of the other kind is understood, and answered in the format of the connection.
    command = {"type": "ping", "id": 2}
    client.ws.send(json.dumps(command) if FORMAT == "msgpack" else msgpack.packb(command))
    assert client.event() == {"type": "pong", "id": 2}


def close_frames_are_answered():
    for code, reason in [(1000, ""), (1001, "tab closed"), (3000, "é" * 60), (4999, "own")]:
        client = Client("/ws/closing").connected()
        client.ws.close(code, reason)
        answer = client.ws.protocol.close_rcvd
        assert answer is not None and (answer.code, answer.reason) == (code, reason), answer
        assert client.ws.protocol.close_rcvd_then_sent is False
    client = Client().connected()
    client.ws.send("x" * 70_000)
    code, reason = client.closed()
    assert code == 1009 and "65536" in reason, (code, reason)


def fragmented_commands_are_joined():
    client = Client().connected()
    message = client.encoded({"type": "subscribe", "channel": "fragments", "id": "é" * 10})
    # Cut anywhere, also within a character where the frames are binary; the library cuts text at characters.
    client.ws.send(message[at : at + 1] for at in range(len(message)))
    client.subscribed("fragments", id="é" * 10)
    third = len(message) // 3
    parts = iter([message[:third], message[third : 2 * third], message[2 * third :]])

    def with_pings():
        for part in parts:
            yield part
            assert client.ws.pong(b"between") is None

    client.ws.send(with_pings())
    assert client.event("error")["code"] == "already_subscribed"


def clients_may_publish():
    client, raw = Client().connected(), Client("/ws/chat", format="raw")
    client.subscribe("chat")
    replies, notified = 0, 0
    values = [{"title": "Ding", "n": [1, -2, 0.5]}, [1], "text", 7, None, True]
    for n, value in enumerate(values, 1):
        client.send(type="publish", channel="chat", data=value, id=n)
        for _ in range(2):
            event = client.event()
            if event["type"] == "published":
                check_fields(event, "type channel id", {"id": n}) if "seq" not in event else None
                assert event["channel"] == "chat" and event.get("seq", n) == n, event
                replies += 1
            else:
                assert (event["type"], event["seq"], event["data"]) == ("notification", n, value), event
                notified += 1
        payload = raw.ws.recv(timeout=PATIENCE)
        if FORMAT == "msgpack" and isinstance(value, (dict, list)):
            assert (payload if isinstance(payload, bytes) else payload.encode()) == msgpack.packb(value), payload
        else:
            assert json.loads(payload) == value, payload
    assert replies == notified == len(values)
    client.send(type="publish", channel="nobody-listens", data=1, id="n")
    event = client.event("published")
    assert (event["channel"], event["id"]) == ("nobody-listens", "n"), event
    client.send(type="publish", channel="chat", data="x" * 2000, id="big")
    event = client.event("error")
    assert (event["code"], event["id"]) == ("payload_too_big", "big"), event
    if FORMAT == "msgpack":
        client.send(type="publish", channel="chat", data=b"\x00\xff\x10")
        assert raw.ws.recv(timeout=PATIENCE) == b"\x00\xff\x10"


def raw_is_payloads_alone():
    client = Client("/ws", format="raw")
    witness = Client("/ws/only", format="json").connected()
    witness.subscribed("only")
    client.ws.send(json.dumps({"type": "subscribe", "channel": "only", "id": 1}))
    client.ws.send(json.dumps({"type": "dance"}))
    # Commands are obeyed silently; that this one was is told by its own connection's pong, a control frame.
    assert client.ws.ping().wait(PATIENCE)
    payloads = ['{"title": "Ding",   "n": 1.0}', b"\xff\x00", "plain é", "x" * 66_000]
    for n, payload in enumerate(payloads, 1):
        publish("only", payload)
        assert witness.event("notification")["seq"] == n
        assert client.ws.recv(timeout=PATIENCE) == payload


def mixed_payloads():
    """What is worth compressing, what is not, and what is too long for it, by turns."""
    rows = [{"id": n, "title": f"notification {n} é", "read": n % 2 == 0} for n in range(60)]
    return [rows, "short", rows[:20], 1, ["x" * 200_000], rows, {"a": None}, base64.b64encode(bytes(range(256)) * 8).decode()] * 2


def compressed_and_plain_are_read():
    # So many that a message is worth compressing.
    clients = [Client().connected() for _ in range(16)]
    for client in clients:
        assert "permessage-deflate" in str(client.ws.protocol.extensions).lower().replace("permessagedeflate", "permessage-deflate")
        client.subscribe("mixed")
    asyncio.run(aiohttp_reads_them(len(clients)))
    for client in clients:
        for n, payload in enumerate(mixed_payloads(), 1):
            client.notification("mixed", n, payload)


async def aiohttp_reads_them(others):
    options = {"compress": 15, "protocols": [f"campanile.v1.{FORMAT}"], "max_msg_size": 0}
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://{ADDRESS}/ws/mixed", **options) as ws:
        assert ws.compress, "it was agreed to"

        async def event():
            message = await asyncio.wait_for(ws.receive(), PATIENCE)
            assert message.type is (aiohttp.WSMsgType.BINARY if FORMAT == "msgpack" else aiohttp.WSMsgType.TEXT), message
            return msgpack.unpackb(message.data) if FORMAT == "msgpack" else json.loads(message.data)

        assert [(await event())["type"], (await event())["type"]] == ["connected", "subscribed"]
        for n, payload in enumerate(mixed_payloads(), 1):
            publish("mixed", json.dumps(payload))
            told = await event()
            assert (told["type"], told["seq"], told["data"]) == ("notification", n, payload), told
        command = {"type": "ping", "id": "a command, compressed"}
        await (ws.send_bytes(msgpack.packb(command)) if FORMAT == "msgpack" else ws.send_str(json.dumps(command)))
        assert await event() == {"type": "pong", "id": command["id"]}


def unread(client):
    client.send(type="unread", channels=["feed:news"], id="u")
    event = client.event("unread")
    check_fields(event, "type channels", {"id": "u"})
    (counts,) = event["channels"]
    return [counts[name] for name in ("channel", "last", "read", "unread")]


def mark_read(client, seq, **more):
    client.send(type="mark_read", channel="feed:news", seq=seq, id=seq, **more)
    event = client.event("read")
    check_fields(event, "type channel epoch seq", {"id": seq})
    return event


def marks_stay_in_step():
    phone, desk, other = [Client(f"/ws?user={user}").connected() for user in ("ada", "ada", "bob")]
    epoch = desk.subscribe("feed:news")["epoch"]
    for n in range(1, 4):
        phone.send(type="publish", channel="feed:news", data={"n": n}, id=n)
        assert phone.event("published") == {"type": "published", "id": n, "channel": "feed:news", "seq": n}
        desk.notification("feed:news", n, {"n": n})
    for client in (phone, desk, other):
        assert unread(client) == ["feed:news", 3, 0, 3]
    # The other connection of the user, which has asked for its counts, is told.
    assert mark_read(phone, 2, epoch=epoch)["seq"] == 2
    assert desk.event() == {"type": "read", "channel": "feed:news", "epoch": epoch, "seq": 2}
    assert unread(phone) == unread(desk) == ["feed:news", 3, 2, 1]
    # It never goes back, and not beyond what is there.
    assert mark_read(desk, 1)["seq"] == 2
    assert mark_read(desk, 1000)["seq"] == 3
    assert phone.event() == {"type": "read", "channel": "feed:news", "epoch": epoch, "seq": 3}
    assert unread(phone) == unread(desk) == ["feed:news", 3, 3, 0]
    assert unread(other) == ["feed:news", 3, 0, 3]
    phone.send(type="mark_read", channel="plain", seq=1, id="m")
    assert phone.event("error")["code"] == "not_durable"
    phone.send(type="mark_read", channel="feed:news", seq=1, epoch=epoch + 1, id="m")
    assert phone.event("error")["code"] == "other_epoch"


def comes_to_be_there(client, subscribers, members):
    """Asks until it is so: nobody is told who comes and goes."""
    begin = time.monotonic()
    while True:
        client.send(type="presence", channel="room:7", members=True, id="p")
        event = client.event("presence")
        check_fields(event, "type channel subscribers members more", {"id": "p"})
        if (event["subscribers"], event["members"]) == (subscribers, members):
            return
        assert time.monotonic() - begin < PATIENCE, event
        time.sleep(0.05)


def who_is_there():
    asker = Client("/ws?user=zoe").connected()
    comes_to_be_there(asker, 0, [])
    ada, also_ada, bob = [Client(f"/ws?user={user}").connected() for user in ("ada", "ada", "bob")]
    for client in (ada, also_ada, bob):
        client.subscribe("room:7")
    comes_to_be_there(asker, 3, ["ada", "bob"])
    asker.send(type="presence", channel="room:7", members=True, limit=1, id="p")
    page = asker.event("presence")
    assert (page["subscribers"], page["members"], page["more"]) == (3, ["ada"], True), page
    asker.send(type="presence", channel="room:7", members=True, after="ada", limit=1)
    assert asker.event("presence") == {"type": "presence", "channel": "room:7", "subscribers": 3, "members": ["bob"], "more": False}
    # One of two connections, a subscription, and a connection that just ends.
    also_ada.ws.close()
    comes_to_be_there(asker, 2, ["ada", "bob"])
    ada.send(type="unsubscribe", channel="room:7")
    comes_to_be_there(asker, 1, ["bob"])
    bob.ws.socket.close()
    comes_to_be_there(asker, 0, [])
    asker.send(type="presence", channel="room:7")
    assert asker.event("presence") == {"type": "presence", "channel": "room:7", "subscribers": 0}
    asker.send(type="presence", channel="feed:news")
    assert asker.event("error")["code"] == "not_allowed"


if __name__ == "__main__":
    with OPEN:
        globals()[NAME]()

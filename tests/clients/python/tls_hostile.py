"""Conversations that no decent client has, by tlslite-ng, which sends any record it is told to.

    python3 tls_hostile.py PORT

Each line that comes out is `NAME: OUTCOME`: `alive` where the server has answered a request after it, `alert N` where it has said so (RFC 8446, 6), `closed` where
it has just gone.
"""

import socket
import sys

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.errors import TLSAbruptCloseError, TLSLocalAlert, TLSRemoteAlert
from tlslite.messages import Message

PORT = int(sys.argv[1])
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
KEY_UPDATE = bytes([24, 0, 0, 1, 0])
KEY_UPDATE_ASKED = bytes([24, 0, 0, 1, 1])


class Conversation:
    def __init__(self, version):
        self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=60)
        self.tls = TLSConnection(self.socket)
        settings = HandshakeSettings()
        settings.minVersion = settings.maxVersion = version
        self.tls.handshakeClientCert(settings=settings)
        self.layer = self.tls._recordLayer
        # Tickets of TLS 1.3 come before anything else does.
        self.ask()

    def send(self, kind, content):
        for _ in self.layer.sendRecord(Message(kind, bytearray(content))):
            pass

    def raw(self, content):
        self.socket.sendall(content)

    def update_keys(self):
        """What follows is sealed with the next ones."""
        session = self.tls.session
        session.cl_app_secret, _ = self.layer.calcTLS1_3KeyUpdate_reciever(session.cipherSuite, session.cl_app_secret, session.sr_app_secret)

    def ask(self):
        self.send(DATA, REQUEST)
        answer = bytearray()
        while b"ok\n" not in answer:
            answer += self.tls.read(max=4096, min=1)
            if not answer:
                raise EOFError

    def outcome(self):
        try:
            self.ask()
            return "alive"
        except TLSRemoteAlert as alert:
            return f"alert {alert.description}"
        except (TLSAbruptCloseError, EOFError, OSError, ValueError):
            return "closed"
        except TLSLocalAlert as alert:
            return f"it said what is none: {alert}"
        finally:
            self.socket.close()


def a_key_update_of_the_client(it):
    it.send(HANDSHAKE, KEY_UPDATE)
    it.update_keys()


def a_key_update_in_two_records(it):
    it.send(HANDSHAKE, KEY_UPDATE[:2])
    it.send(HANDSHAKE, KEY_UPDATE[2:])
    it.update_keys()


def many_key_updates(it):
    for _ in range(3000):
        it.send(HANDSHAKE, KEY_UPDATE)
        it.update_keys()


def times(count, kind, content):
    def send(it):
        for _ in range(count):
            it.send(kind, content)

    return send


def one(kind, content):
    return times(1, kind, content)


def requests(size):
    """Whole ones, one behind the other, the last with a field that makes them so long together."""
    many = REQUEST * (size // len(REQUEST) - 2)
    return many + REQUEST[:-2] + b"X: " + b"x" * (size - len(many) - len(REQUEST) - 5) + b"\r\n\r\n"


def raw(content):
    return lambda it: it.raw(content)


def replayed(it):
    """A request that was answered comes once more, byte for byte."""
    sent = []

    class Tap:
        def __init__(self, real):
            self.real = real

        def send(self, data):
            sent.append(bytes(data))
            return self.real.send(data)

        def __getattr__(self, name):
            return getattr(self.real, name)

    records = it.layer._recordSocket
    real = records.sock
    records.sock = Tap(real)
    it.ask()
    records.sock = real
    it.raw(b"".join(sent))


TLS13 = [
    ("nothing", lambda it: None),
    ("a record of 16,384 bytes", one(DATA, requests(16_384))),
    ("a record of 16,385 bytes", one(DATA, requests(16_385))),
    ("an empty record of data", one(DATA, b"")),
    ("33 empty records of data", times(33, DATA, b"")),
    ("an empty handshake record", one(HANDSHAKE, b"")),
    ("an empty alert", one(ALERT, b"")),
    ("an alert of one byte", one(ALERT, b"\1")),
    ("two alerts in a record", one(ALERT, b"\1\x5a\1\x5a")),
    ("user_canceled", one(ALERT, b"\1\x5a")),
    ("a warning of another kind", one(ALERT, b"\1\x64")),
    ("a fatal alert", one(ALERT, b"\2\x50")),
    ("an inner type of 99", one(99, b"x")),
    ("an inner change_cipher_spec", one(CHANGE_CIPHER_SPEC, b"\1")),
    ("a ClientHello", one(HANDSHAKE, b"\1\0\0\4aaaa")),
    ("a HelloRequest", one(HANDSHAKE, b"\0\0\0\0")),
    ("a key update", a_key_update_of_the_client),
    ("a key update in two records", a_key_update_in_two_records),
    ("data within a key update", lambda it: (it.send(HANDSHAKE, KEY_UPDATE[:2]), it.send(DATA, REQUEST))),
    ("two key updates in a record", one(HANDSHAKE, KEY_UPDATE * 2)),
    ("a key update with a byte behind", one(HANDSHAKE, KEY_UPDATE + b"\0")),
    ("a key update with value 2", one(HANDSHAKE, KEY_UPDATE[:4] + b"\2")),
    ("a key update of 16 MB", one(HANDSHAKE, b"\x18\xff\xff\xff\0")),
    ("3,000 key updates", many_key_updates),
    ("a header of 16,641 bytes", raw(b"\x17\3\3\x41\1")),
    ("a header of 20,000 bytes", raw(b"\x17\3\3\x4e\x20")),
    ("an alert in the clear", raw(b"\x15\3\3\0\2\2\0")),
    ("data in the clear", raw(b"\x17\3\3\0\4GET ")),
    ("change_cipher_spec in the clear", raw(b"\x14\3\3\0\1\1")),
    ("a wrong tag", raw(b"\x17\3\3\0\x20" + bytes(32))),
    ("a record again", replayed),
]
TLS12 = [
    ("nothing", lambda it: None),
    ("an empty record of data", one(DATA, b"")),
    ("33 empty records of data", times(33, DATA, b"")),
    ("a warning", one(ALERT, b"\1\x5a")),
    ("5 warnings", times(5, ALERT, b"\1\x5a")),
    ("a fatal alert", one(ALERT, b"\2\x50")),
    ("an alert of one byte", one(ALERT, b"\1")),
    ("change_cipher_spec", one(CHANGE_CIPHER_SPEC, b"\1")),
    ("a Finished", one(HANDSHAKE, b"\x14\0\0\x0c" + bytes(12))),
    ("a header of 20,000 bytes", raw(b"\x17\3\3\x4e\x20")),
    ("a wrong tag", raw(b"\x17\3\3\0\x20" + bytes(32))),
    ("a record again", replayed),
]

for version, title, conversations in [((3, 4), "1.3", TLS13), ((3, 3), "1.2", TLS12)]:
    for name, act in conversations:
        it = Conversation(version)
        try:
            act(it)
        except OSError:
            pass
        print(f"{title} {name}: {it.outcome()}", flush=True)

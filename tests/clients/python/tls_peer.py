"""A WebSocket client over Python's own ssl, for what a library would hide: it says which version was spoken and what the peer showed, may stop reading for
as long as it is told to, and reads one command a line. What comes in goes out as lines: `tls VERSION SUITE`, `subject NAME`, `event JSON`, `end REASON`.

    python3 tls_peer.py PORT CA [--version 1.2|1.3] [--name HOST] [--cert FILE --key FILE] [--path PATH] [--narrow]
"""

import argparse
import base64
import json
import os
import select
import socket
import ssl
import struct
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("port", type=int)
arguments.add_argument("ca")
arguments.add_argument("--version")
arguments.add_argument("--name", default="localhost")
arguments.add_argument("--cert")
arguments.add_argument("--key")
arguments.add_argument("--path", default="/ws?format=json")
arguments.add_argument("--narrow", action="store_true", help="a receive buffer of a few kilobytes")
options = arguments.parse_args()


def say(word, text):
    print(word, text, flush=True)


def masked(opcode, payload):
    size = len(payload)
    length = struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    key = os.urandom(4)
    return length + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def frames(buffer):
    """Takes whole ones off the front of the buffer."""
    while len(buffer) >= 2:
        size, start = buffer[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return
            size = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + size:
            return
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[start : start + size])
        del buffer[: start + size]
        yield opcode, payload


def main():
    context = ssl.create_default_context(cafile=options.ca)
    if options.version:
        version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[options.version]
        context.minimum_version = context.maximum_version = version
    if options.cert:
        context.load_cert_chain(options.cert, options.key)
    plain = socket.socket()
    if options.narrow:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", options.port))
    tls = context.wrap_socket(plain, server_hostname=options.name)
    say("tls", f"{tls.version()} {tls.cipher()[0]}")
    say("subject", dict(pair for part in tls.getpeercert()["subject"] for pair in part).get("commonName"))
    key = base64.b64encode(os.urandom(16)).decode()
    head = f"GET {options.path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    tls.sendall(head.encode())
    buffer = bytearray()
    while b"\r\n\r\n" not in buffer:
        part = tls.recv(65536)
        if not part:
            raise EOFError
        buffer += part
    head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
    if b" 101 " not in head.split(b"\r\n")[0]:
        while part := tls.recv(65536):
            rest += part
        say("end", f"{head.decode().splitlines()[0]} {rest.decode().strip()}")
        return
    buffer[:] = rest
    # One thread for both directions: Python's ssl is not made for two on one connection.
    typed, may_read, is_open = b"", True, True
    while is_open:
        wanted = [sys.stdin] + ([tls] if may_read else [])
        ready = [tls] if may_read and tls.pending() else select.select(wanted, [], [])[0]
        if sys.stdin in ready:
            typed += os.read(sys.stdin.fileno(), 65536)
            *lines, typed = typed.split(b"\n")
            for line in lines:
                if line == b"stop":
                    may_read = False
                    say("stopped", "")
                elif line == b"go":
                    may_read = True
                elif line == b"half":
                    # The header of a record, and some bytes of it: behind ssl's back.
                    os.write(tls.fileno(), b"\x17\3\3\x40\0" + bytes(100))
                elif line == b"shut":
                    # Of TLS nothing is said: ssl's own would forget it.
                    socket.socket(fileno=os.dup(tls.fileno())).shutdown(socket.SHUT_WR)
                elif line == b"unwrap":
                    tls.sendall(masked(8, struct.pack("!H", 1000)))
                else:
                    tls.sendall(masked(1, line))
        if tls in ready:
            part = tls.recv(65536)
            if not part:
                raise EOFError
            buffer += part
        for opcode, payload in frames(buffer):
            if opcode == 1:
                say("event", json.dumps(json.loads(payload), separators=(",", ":")))
            elif opcode == 8:
                say("end", struct.unpack("!H", payload[:2])[0])
                is_open = False
            elif opcode == 9:
                tls.sendall(masked(10, payload))
    # What the other side says at its end: close_notify, or OpenSSL complains.
    tls.unwrap()
    say("closed", "")


try:
    main()
except (ssl.SSLError, OSError, EOFError) as error:
    say("end", f"{type(error).__name__} {error}")

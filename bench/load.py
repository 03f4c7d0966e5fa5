"""Owns the load: plain sockets and one selector, so that it is far from being the limit. Its CPU share is reported."""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import time
from collections.abc import Sequence

import attrs
import click

from bench.servers import Target

_MARKS = (b'{"type":"message_added"', b'{"type": "message_added"')


@attrs.define(eq=False)
class Reader:
    """One socket: counts the `message_added` events that arrive, and those with its own `tag`."""

    sock: socket.socket
    tag: bytes = b""
    rest: bytes = b""
    deliveries: int = 0
    own: int = 0

    def read(self) -> bool:
        """Take what is there; False when the server has closed."""
        try:
            data = self.sock.recv(262_144)
        except BlockingIOError:
            return True
        if not data:
            return False
        data = self.rest + data
        # A marker may be cut in two: its beginning is kept for the next read.
        self.rest = data[-24:] if len(data) >= 24 else data
        self.deliveries += sum(data.count(mark) for mark in _MARKS) - sum(self.rest.count(mark) for mark in _MARKS)
        if self.tag:
            self.own += data.count(self.tag) - self.rest.count(self.tag)
        return True


def connect(target: Target, headers: dict[str, str], tag: bytes = b"") -> Reader:
    """Open one websocket, blocking, then make it non-blocking."""
    sock = socket.create_connection(("127.0.0.1", target.port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = [f"GET {target.path} HTTP/1.1", f"Host: 127.0.0.1:{target.port}", "Upgrade: websocket"]
    lines += ["Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += [f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(65_536)
        if not data:
            raise RuntimeError(f"the server closed during the handshake: {head!r}")
        head += data
    if b" 101 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"the server refused: {head!r}")
    sock.setblocking(False)
    return Reader(sock, tag, head.partition(b"\r\n\r\n")[2])


def send_text(reader: Reader, payload: bytes) -> None:
    """One masked text frame, with the all-zero mask that leaves the bytes as they are."""
    assert 126 <= len(payload) < 65_536
    reader.sock.send(b"\x81" + bytes([0x80 | 126]) + len(payload).to_bytes(2) + bytes(4) + payload)


def send_message(reader: Reader, number: int) -> None:
    tag = reader.tag.decode()
    # The key must not contain the tag: own messages are counted by it.
    data = {"text": f"{tag} {number} " + "x" * 80, "attachments": [], "client_id": f"key-{tag.strip('w')}-{number}"}
    send_text(reader, json.dumps({"type": "send_message", "data": data}).encode())


@attrs.frozen
class Measured:
    deliveries_per_second: float
    load_cpu_share: float


def fan_out(target: Target, *, members: int, senders: int, in_flight: int, seconds: float, progress: str) -> Measured:
    """`senders` of the room's `members` keep `in_flight` messages each on their way for `seconds`."""
    writers = [connect(target, target.writers, f"w{number:03}w".encode()) for number in range(senders)]
    readers = [*writers, *(connect(target, target.readers) for _ in range(members - senders))]
    selector = selectors.DefaultSelector()
    for reader in readers:
        selector.register(reader.sock, selectors.EVENT_READ, reader)
    try:
        return _drive(selector, readers, writers, in_flight, seconds, progress)
    finally:
        selector.close()
        for reader in readers:
            reader.sock.close()


def _drive(
    selector: selectors.BaseSelector,
    readers: Sequence[Reader],
    writers: Sequence[Reader],
    in_flight: int,
    seconds: float,
    progress: str,
) -> Measured:
    sent: dict[Reader, int] = dict.fromkeys(writers, 0)
    started = time.perf_counter()
    warm = started + min(1.0, seconds / 4)
    end = warm + seconds
    base = cpu = 0.0
    counting = False
    with click.progressbar(length=100, label=progress) as bar:
        while (now := time.perf_counter()) < end:
            if not counting and now >= warm:
                counting, base, cpu = True, sum(reader.deliveries for reader in readers), time.process_time()
            for key, _ in selector.select(0.05):
                if not key.data.read():
                    raise RuntimeError("the server closed a socket under load")
            for writer in writers:
                while sent[writer] - writer.own < in_flight:
                    send_message(writer, sent[writer])
                    sent[writer] += 1
            bar.update(max(0, int(100 * (now - started) / (end - started)) - bar.pos))
    took = time.perf_counter() - warm
    total = sum(reader.deliveries for reader in readers) - base
    return Measured(total / took, (time.process_time() - cpu) / took)

"""A server that refuses connections as PostgreSQL 16 does, which does not know all options of a connection."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

_ENCRYPTION = (80877103, 80877104)
_FIELDS = b'SFATAL\0VFATAL\0C42704\0Munrecognized configuration parameter "transaction_timeout"\0\0'


@contextmanager
def old_postgres() -> Iterator[str]:
    """Its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=_serve, args=(listener,))
        thread.start()
        try:
            yield f"postgresql://me:hidden@127.0.0.1:{listener.getsockname()[1]}/chat"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as incoming:
            while header := incoming.read(8):
                length, code = struct.unpack("!ii", header)
                incoming.read(length - 8)
                if code in _ENCRYPTION:
                    connection.sendall(b"N")
                else:
                    connection.sendall(b"E" + struct.pack("!i", len(_FIELDS) + 4) + _FIELDS)
                    break

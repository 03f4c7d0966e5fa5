"""A TCP proxy that loses one direction, or refuses connections, as networks do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class FaultyProxy:
    """Passes connections on to a server on this machine, until a fault is asked for."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._refuses = False
        self._silent: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def silence(self) -> None:
        """The clients that are connected hear nothing more."""
        self._silent |= self._open

    def refuse(self, refuses: bool) -> None:
        """Break all connections, and all later ones until this is taken back."""
        self._refuses = refuses
        if refuses:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Accept connections until `close`."""
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                if self._refuses:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open |= {client, server}
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                # Only the server's direction is lost.
                if sink not in self._silent or source.getpeername()[1] != self._target:
                    sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextmanager
def running_proxy(port: int) -> Iterator[FaultyProxy]:
    """Run a proxy for the server on `port` inside the block."""
    proxy = FaultyProxy(port)
    thread = threading.Thread(target=proxy.run)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()

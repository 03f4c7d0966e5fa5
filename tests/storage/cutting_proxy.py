"""A proxy in front of PostgreSQL that cuts a connection when the client sends COMMIT."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from actorchat.testing import CommitCut

PREPARED = re.compile(rb"(_pg3_\w+)\x00COMMIT\x00")
"""The message that prepares COMMIT under a name, which is all that later messages say."""


class CuttingProxy:
    """A `CommitLine`: listens on `port`, and forwards to the server's port."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut: CommitCut | None = None
        self._late = 0.0
        self._settled = Event()
        self._threads: list[Thread] = []
        self._sockets: list[socket.socket] = []
        self._start(self._accept)

    def cut_next_commit(self, cut: CommitCut, late: float = 0.0) -> None:
        self._settled.clear()
        self._late = late
        self._cut = cut

    def wait_settled(self, seconds: float) -> bool:
        return self._settled.wait(seconds)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            hang_up(each)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _start(self, target: object, *args: object) -> None:
        thread = Thread(target=target, args=args)  # type: ignore[arg-type]  # a callable
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            self._sockets += [client, server]
            muted, answered = Event(), Event()
            self._start(self._upstream, client, server, muted, answered)
            self._start(self._downstream, client, server, muted, answered)

    def _upstream(self, client: socket.socket, server: socket.socket, muted: Event, answered: Event) -> None:
        name = b"COMMIT"
        with closing_both(client, server):
            while data := client.recv(65_536):
                if (found := PREPARED.search(data)) is not None:
                    name = found[1]
                if name + b"\0" in data and self._cut is not None:
                    cut, self._cut = self._cut, None
                    muted.set()
                    if cut is CommitCut.LATE:
                        hang_up(client)
                        Event().wait(self._late)
                    if cut is not CommitCut.LOST:
                        # The server may have ended the transaction meanwhile.
                        with suppress(OSError):
                            server.sendall(data)
                            answered.wait(5)
                    hang_up(server)
                    self._settled.set()
                    return
                server.sendall(data)

    def _downstream(self, client: socket.socket, server: socket.socket, muted: Event, answered: Event) -> None:
        with closing_both(client, server):
            while data := server.recv(65_536):
                if muted.is_set():
                    answered.set()
                else:
                    client.sendall(data)
        answered.set()


def hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def closing_both(*sockets: socket.socket) -> Iterator[None]:
    try:
        with suppress(OSError):
            yield
    finally:
        for each in sockets:
            hang_up(each)

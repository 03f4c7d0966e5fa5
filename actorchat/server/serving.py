"""Assembles, starts and stops a server."""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

import attrs
import trio

from actorchat.actors import open_system
from actorchat.blobs import LocalBlobs
from actorchat.blobs.links import SignedLinks
from actorchat.brokers import MemoryBroker, Relays, RelayStatistics, open_broker, open_relays
from actorchat.chat.limits import Limits
from actorchat.chat.links import Links
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.service import ChatService, open_chats, settle_dead_letter
from actorchat.http.app import make_app
from actorchat.http.connection import HttpServer
from actorchat.http.origins import AllowedOrigins
from actorchat.http.problems import Problem
from actorchat.http.proxies import Proxies
from actorchat.protocol import BrokerChannel, BrokerMessage, CloseCode, Profile, Role, User
from actorchat.server.access_control import AccessControl
from actorchat.server.attachments import Attachments
from actorchat.server.auth import Tokens
from actorchat.server.bootstrap import StartFailed, check_public_key, new_folder, prepare_tokens, tls_context
from actorchat.server.embedded import EmbeddedSockets, LocalSocket
from actorchat.server.embedded_api import LocalApi
from actorchat.server.environment import Environment
from actorchat.server.inspection import serve_inspection
from actorchat.server.settings import Settings, broker_urls
from actorchat.server.user_cache import UserCache
from actorchat.server.websocket_routes import WebsocketAccess, WebsocketRoutes
from actorchat.storage import Journal, JournalStatistics, Storage, StoreUrlError, open_journal
from actorchat.transports.http_stream import HttpStream, TlsHttpStream
from actorchat.transports.listener import HttpSide, Listener
from actorchat.transports.memory import MemoryTransport, open_memory_transport
from actorchat.transports.ports import Application
from actorchat.transports.reactor import ReactorTransport, open_reactor_transport
from actorchat.transports.request_head import RequestHead
from actorchat.transports.websocket import WebsocketTransport, open_websocket_transport

__all__ = ["DRAIN_SECONDS", "Server", "ServerStatistics", "open_server", "start_server"]

DRAIN_SECONDS: Final = 9.0
"""How long draining may take before the remaining connections are cut. Some service managers kill after ten seconds."""

STOP_SECONDS: Final = 9.7
"""How long draining and stopping may take together. Stopping stores the departures of users and closes the storage."""

COMMIT_SECONDS: Final = 3.0
"""How long draining waits for commits before it closes the sockets. Their peers then have 5 s to read what is left."""

ANSWER_SECONDS: Final = 3.0
"""How long HTTP clients have to read their answers after the last commit."""

_log: Final = logging.getLogger("actorchat.server")


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """Counts of open connections now, and the journal's counters since the start."""

    websockets: int
    memory_sockets: int
    http_connections: int
    draining: bool
    journal: JournalStatistics
    brokers: tuple[RelayStatistics, ...] = ()


@attrs.frozen(kw_only=True)
class _Parts:
    chats: ChatService
    journal: Journal
    local: EmbeddedSockets
    access_control: AccessControl
    tokens: Tokens
    attachments: Attachments
    memory: MemoryTransport
    websockets: ReactorTransport | WebsocketTransport
    http: HttpServer
    relays: Relays | None
    memory_broker: MemoryBroker | None


@attrs.define
class _State:
    """The mutable state of a server."""

    listener: Listener | None = None
    port: int | None = None
    draining: bool = False
    drained: bool = False


class Server:
    """A running server, made by `open_server`. It stops when that block is left."""

    def __init__(self, settings: Settings, parts: _Parts, state: _State) -> None:
        self.settings: Settings = settings
        self._parts = parts
        self._state = state

    async def drain(self) -> None:
        """Stop accepting, finish pending operations, close all connections. Takes at most `DRAIN_SECONDS`.

        Sockets are closed with 1001 after the last commit, at the latest after `COMMIT_SECONDS`: while storage is
        unavailable, a commit may stay in doubt for longer. Its outcome may still arrive until the end.
        """
        parts, state = self._parts, self._state
        state.draining = True
        with trio.move_on_after(DRAIN_SECONDS):
            if state.listener is not None:
                state.listener.close()
            committed = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._finish_operations, committed)
                nursery.start_soon(self._end_http, committed)
                with trio.move_on_after(COMMIT_SECONDS):
                    await committed.wait()
                nursery.start_soon(parts.memory.drain, CloseCode.DRAINING)
                nursery.start_soon(parts.websockets.drain, CloseCode.DRAINING)
            state.drained = True
        if not state.drained:
            _log.error("draining took longer than %.0f s: the remaining connections are cut", DRAIN_SECONDS)
            parts.http.abort()

    async def _finish_operations(self, committed: trio.Event) -> None:
        """Set `committed` once all accepted operations are committed or refused, and their events sent."""
        await self._parts.chats.drain()
        await self._parts.journal.barrier()
        committed.set()

    async def _end_http(self, committed: trio.Event) -> None:
        """Close idle HTTP connections at once, and others after their answer or when time is up."""
        http, ended = self._parts.http, trio.Event()

        async def end() -> None:
            await http.drain()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            with trio.move_on_after(COMMIT_SECONDS):
                await committed.wait()
            with trio.move_on_after(ANSWER_SECONDS):
                await ended.wait()
            http.abort()

    @property
    def port(self) -> int:
        """The port that the server listens on. Raises RuntimeError if the setting `port` is None."""
        if self._state.port is None:
            raise RuntimeError("this server does not listen: its setting `port` is None")
        return self._state.port

    @property
    def url(self) -> str:
        """The server's URL on this machine, without a trailing slash. Raises RuntimeError as `port` does."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)  # noqa: S104 - read, not bound
        scheme = "http" if self.settings.tls_cert is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def reload_certificate(self, cert: Path | None = None, key: Path | None = None) -> None:
        """Read the TLS certificate chain and its key again, from other files if given.

        New connections use the new certificate, open ones keep theirs. Raises InvalidSettings, and changes nothing, if
        the files can't be used. Raises RuntimeError if this server has no TLS.
        """
        listener = self._state.listener
        if listener is None or self.settings.tls_cert is None:
            raise RuntimeError("this server has no TLS: its setting `tls_cert` is None")
        settings = attrs.evolve(
            self.settings, tls_cert=cert or self.settings.tls_cert, tls_key=key or self.settings.tls_key
        )
        tls = await trio.to_thread.run_sync(tls_context, settings)
        if tls is not None:
            listener.use_tls(tls)
            self.settings = settings

    async def connect_visitor(
        self,
        *,
        source: str,
        user: User | int | None = None,
        after: int | None = None,
        profile: Profile = Profile.EXTENDED,
    ) -> LocalSocket:
        """Open a visitor's socket to the room of their open chat at `source`; reserve a chat if there is none.

        `user` None is a new anonymous visitor; other ids are below 2^52. `after` replays the messages after that index,
        -1 all. Raises ChatRefused, StorageUnavailable, and ValueError for an id that is not allowed.
        """
        return await self._parts.local.visitor(source, user, after, profile)

    async def connect_operator(
        self,
        operator: User | int,
        *,
        sources: Collection[str],
        chat: UUID,
        after: int | None = None,
        profile: Profile = Profile.EXTENDED,
    ) -> LocalSocket:
        """Open an operator's socket to the room of `chat`. `after` replays as in `connect_visitor`.

        `sources` are added to the sources that the operator belongs to.
        Raises ChatRefused, StorageUnavailable, and ValueError for an id that is not allowed.
        """
        return await self._parts.local.operator(operator, sources, chat, after, profile)

    async def connect_feed(
        self, operator: User | int, *, sources: Collection[str], profile: Profile = Profile.EXTENDED
    ) -> LocalSocket:
        """Open an operator's socket to the feed of `sources`.

        `sources` are added to the sources that the operator belongs to.
        Raises ChatRefused, StorageUnavailable, and ValueError for an id that is not allowed.
        """
        return await self._parts.local.feed(operator, sources, profile)

    async def api_for(self, user: User, *, sources: Collection[str] = ()) -> LocalApi:
        """Return the operations of the HTTP API (history, accept, close, notes and so on) with the rights of `user`.

        `sources` are an operator's widget sources. They are stored without an expiry, unlike the sources of a token.
        The profile of `user` is stored; empty fields keep their stored value.
        Raises ChatRefused, StorageUnavailable, and ValueError for an id that is not allowed.
        """
        parts = self._parts
        stored = await parts.local.record(user, user.role, sources)
        return LocalApi(parts.chats, parts.access_control, parts.attachments, stored, sources)

    def issue_token(self, user: User, *, sources: Collection[str] = (), ttl: float = 3600.0) -> str:
        """Return a signed token for `user`, valid for `ttl` seconds, for example for a page that the program renders.

        `sources` are an operator's widget sources. The token contains the profile of `user`. Raises ValueError for an
        id that is not allowed in a token: an operator's must be below 2^52.
        """
        return self._parts.tokens.issue(user, sources, ttl)

    @asynccontextmanager
    async def open_broker_feed(self, *channels: str) -> AsyncIterator[AsyncIterator[BrokerMessage]]:
        """Receive the messages that are published on `channels` from now on. No channels means all of them.

        The channels are `chat`, `operators`, `message` and `global`. Messages of one chat arrive in commit order. The
        iteration ends only when the block is left. A reader that is 1,000 messages behind delays this broker only.
        Raises RuntimeError without the broker `memory://` in the settings, and ValueError for an unknown channel.
        """
        broker = self._parts.memory_broker
        if broker is None:
            raise RuntimeError("this server has no in-memory broker: set broker=['memory://']")
        async with broker.read(frozenset(map(BrokerChannel, channels or BrokerChannel))) as messages:
            yield messages

    def statistics(self) -> ServerStatistics:
        """Return counters of this moment: open sockets, HTTP connections and the state of the journal. Never blocks."""
        parts = self._parts
        return ServerStatistics(
            websockets=len(parts.websockets.sessions),
            memory_sockets=len(parts.memory.sessions),
            http_connections=len(parts.http),
            draining=self._state.draining,
            journal=parts.journal.statistics(),
            brokers=() if parts.relays is None else parts.relays.statistics(),
        )

    @property
    def drained(self) -> bool:
        """Whether draining finished in time: all operations are decided and all connections closed."""
        return self._state.drained


@asynccontextmanager
async def open_server(
    settings: Settings | None = None, *, environment: Environment | None = None
) -> AsyncIterator[Server]:
    """Run a server while the block runs. One process may run several, which share nothing.

    Leaving the block drains the server, also if the block was cancelled: accepted operations are stored, and sockets
    are closed with 1001. This is shielded from cancellation and takes at most ten seconds. Exceptions of the block are
    raised as they are, without an exception group. `environment` replaces the real clocks, network and storage;
    `actorchat.testing.simulation` makes one.
    Raises InvalidSettings or StartFailed if the server can't start.
    """
    stop = trio.Event()
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield await nursery.start(_run, settings or Settings(), environment or Environment(), stop)
        except BaseException as error:
            # Raised again below, because the nursery would wrap it in an exception group.
            failure = error
        stop.set()
    if failure is not None:
        raise failure


async def _run(
    settings: Settings, environment: Environment, stop: trio.Event, *, task_status: trio.TaskStatus[Server]
) -> None:
    """Run a server in its own task, so that cancelling the caller's block does not cancel what has to be stored."""
    with trio.CancelScope() as scope:
        async with AsyncExitStack() as stack:
            try:
                server = await start_server(stack, settings, environment)
            except OSError as error:
                where = "" if error.filename is None else f"{error.filename}: "
                raise StartFailed(f"the server can't start: {where}{error.strerror or error}") from error
            # From here on only `stop` ends the server, within STOP_SECONDS.
            scope.shield = True
            task_status.started(server)
            await stop.wait()
            scope.deadline = trio.current_time() + STOP_SECONDS
            await server.drain()
            if not server.drained:
                scope.cancel()


async def start_server(stack: AsyncExitStack, settings: Settings, environment: Environment) -> Server:
    """Start a server whose parts are closed with `stack`. Unless `Server.drain` is called first, it ends as if killed.

    Steps that can fail come before steps that leave files: a failed start leaves no new folder and no secret.
    """
    wall, random = environment.wall, environment.random
    tls = tls_context(settings)
    check_public_key(settings)
    sockets = await _listen(settings, environment)
    for sock in sockets:
        stack.callback(sock.close)
    with new_folder(settings.folder), prepare_tokens(settings, wall) as make_tokens:
        storage = await _open_storage(stack, settings, environment)
        tokens = make_tokens()
    links = SignedLinks(
        tokens.derive_key("attachments"),
        wall,
        seconds=settings.attachments.link_seconds,
        base=settings.attachments.url,
    )
    memory_broker, relays = await _open_relays(stack, settings, environment, storage, links)
    journal = await stack.enter_async_context(
        open_journal(
            storage.store,
            storage.runner,
            capacity=environment.journal_capacity,
            clock=wall,
            writer=f"{random.getrandbits(128):032x}",
            tidy=storage.tidy,
            committed=None if relays is None else relays.committed,
        )
    )
    system = await stack.enter_async_context(
        open_system(on_dead_letter=settle_dead_letter, seed=random.getrandbits(64))
    )
    chats = await stack.enter_async_context(
        open_chats(
            system=system,
            journal=journal,
            chat_reader=storage.chat_reader,
            policy=settings.policy,
            limits=_limits(settings, environment),
            links=links,
            clock=wall,
            random=random,
        )
    )
    users = UserCache(chats, random, wall)
    access_control = AccessControl(
        chats,
        tokens,
        users,
        sources=settings.sources,
        visitors_per_minute=settings.limits.visitors_per_minute,
        chats_per_minute=settings.limits.chats_per_minute,
        address_chats_per_minute=settings.limits.address_chats_per_minute,
    )
    application = WebsocketRoutes(chats)
    memory = await stack.enter_async_context(open_memory_transport(application, limits=environment.sockets, wall=wall))
    websockets = await stack.enter_async_context(_open_websockets(settings, application, environment))
    state = _State()

    def unready() -> Problem | None:
        if state.draining:
            return Problem("draining", "the server is stopping")
        if journal.statistics().away:
            return Problem("storage_unavailable", "storage is unavailable")
        if storage.chat_reader.unreadable:
            return Problem("storage_unavailable", "storage can't be read")
        return None

    origins = AllowedOrigins(settings.origins)
    proxies = Proxies(settings.http.trusted_proxies, settings.http.proxy_headers)
    blobs = LocalBlobs(_attachments_folder(stack, settings))
    attachments = Attachments(
        chats,
        blobs,
        links,
        settings.attachments,
        max_per_message=settings.limits.attachments,
        clock=wall,
        random=random,
    )
    app = make_app(
        chats,
        access_control,
        attachments,
        origins=origins,
        cors_headers=settings.http.cors_headers,
        proxies=proxies,
        unready=unready,
        brokers=None if relays is None else partial(_broker_states, settings, relays),
    )
    http = HttpServer(app, keep_alive=settings.http.keep_alive)
    parts = _Parts(
        chats=chats,
        journal=journal,
        local=EmbeddedSockets(chats, users, memory),
        access_control=access_control,
        tokens=tokens,
        attachments=attachments,
        memory=memory,
        websockets=websockets,
        http=http,
        relays=relays,
        memory_broker=memory_broker,
    )
    nursery = await stack.enter_async_context(trio.open_nursery())
    stack.callback(nursery.cancel_scope.cancel)
    nursery.start_soon(storage.chat_reader.watch)
    if settings.folder is None:
        attachments.sweep_after_first_upload(nursery)
    else:
        await attachments.clean()
        nursery.start_soon(attachments.sweep)
        await nursery.start(serve_inspection, settings.folder, system)
    if sockets:
        listener = Listener(
            sockets,
            transport=websockets,
            authorize=WebsocketAccess(
                access_control,
                origins,
                proxies,
                max_sockets={
                    Role.USER: settings.limits.visitor_sockets,
                    Role.OPERATOR: settings.limits.operator_sockets,
                },
                count=websockets.sessions.count,
            ),
            http=_http_side(http),
            tls=tls,
            max_connections=environment.connections(),
            close_idle=http.close_idle,
            kernel=environment.kernel,
        )
        state.listener, state.port = listener, listener.port
        await nursery.start(listener.serve)
    return Server(settings, parts, state)


def _attachments_folder(stack: AsyncExitStack, settings: Settings) -> Path:
    """Return the folder of attachments. Without a database it is one of this run, removed with `stack`.

    Otherwise the files of a database in the same data folder would be deleted: they have no rows in this one.
    """
    if settings.folder is not None and settings.storage != "memory://":
        return settings.folder / "attachments"
    parent = Path(tempfile.gettempdir()) if settings.folder is None else settings.folder / "attachments"
    # It is created at the first upload.
    folder = parent / f"actorchat-{secrets.token_hex(16)}"
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _open_websockets(
    settings: Settings, application: Application, environment: Environment
) -> AbstractAsyncContextManager[ReactorTransport | WebsocketTransport]:
    if settings.websocket_transport == "reactor":
        return open_reactor_transport(
            application,
            limits=environment.sockets,
            wall=environment.wall,
            clock=environment.stopwatch,
            kernel=environment.kernel,
        )
    return open_websocket_transport(application, limits=environment.sockets, wall=environment.wall)


async def _listen(settings: Settings, environment: Environment) -> tuple[socket.socket, ...]:
    if settings.port is None:
        return ()
    try:
        return await environment.listen(settings.host, settings.port)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            advice = "another program listens on it; choose another port with --port"
            raise StartFailed(f"{where} is in use: {advice}") from None
        raise StartFailed(f"can't listen on {where}: {error.strerror or error}") from None
    except UnicodeError:
        raise StartFailed(f"can't listen on {settings.host}:{settings.port}: invalid host name") from None


async def _open_storage(stack: AsyncExitStack, settings: Settings, environment: Environment) -> Storage:
    try:
        return await stack.enter_async_context(
            environment.open_store(
                settings.storage_url,
                settings.policy,
                clock=environment.wall,
                brokers=[url.name for url in broker_urls(settings)],
            )
        )
    except (StorageUnavailable, StoreUrlError) as error:
        raise StartFailed(f"the storage can't be used: {error}") from None


async def _open_relays(
    stack: AsyncExitStack, settings: Settings, environment: Environment, storage: Storage, links: Links
) -> tuple[MemoryBroker | None, Relays | None]:
    if storage.log is None:
        return None, None
    brokers = {url.name: open_broker(url) for url in broker_urls(settings)}
    memory = next((broker for broker in brokers.values() if isinstance(broker, MemoryBroker)), None)
    try:
        relays = await stack.enter_async_context(
            open_relays(
                brokers,
                storage.log,
                links=links,
                keep=settings.broker_keep,
                clock=environment.wall,
                random=environment.random,
            )
        )
    except StorageUnavailable as error:
        raise StartFailed(f"the storage can't be used: {error}") from None
    return memory, relays


def _broker_states(settings: Settings, relays: Relays) -> list[dict[str, object]]:
    """Return the state of the brokers for the public health check, without hosts and error messages."""
    return [
        {
            "broker": url.scheme,
            "status": "ok" if each.problem is None else "unavailable",
            "behind_seconds": round(each.behind, 1),
        }
        for url, each in zip(broker_urls(settings), relays.statistics(), strict=True)
    ]


def _limits(settings: Settings, environment: Environment) -> Limits:
    limits = settings.limits
    return Limits(
        messages_per_second=limits.messages_per_second,
        burst=limits.burst,
        text_length=limits.text_length,
        attachments=limits.attachments,
        operations_in_flight=environment.operations_in_flight,
    )


def _http_side(http: HttpServer) -> HttpSide:
    def serve(stream: HttpStream | TlsHttpStream, head: RequestHead) -> Awaitable[bytes | None]:
        return http.serve(stream)

    return serve

"""Assembles, starts and stops a server."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import chain
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import attrs
import trio
from starlette.routing import Route

from actorchat.actor_tree import ActorTree
from actorchat.actors import open_system
from actorchat.blobs.links import SignedLinks
from actorchat.brokers import MemoryBroker, Relays, RelayStatistics, open_broker, open_relays
from actorchat.chat.accounts import Account, Rights
from actorchat.chat.blocks import Block
from actorchat.chat.console_documents import ConsoleDocuments
from actorchat.chat.limits import Limits
from actorchat.chat.links import Links
from actorchat.chat.model import PersonRecord
from actorchat.chat.ports import ChatReader, StorageUnavailable
from actorchat.chat.search import Search
from actorchat.chat.service import ChatService, open_chats, settle_dead_letter
from actorchat.http.account_administration import AccountListRoutes
from actorchat.http.app import make_app
from actorchat.http.connection import HttpServer
from actorchat.http.live import LiveRoutes
from actorchat.http.origins import AllowedOrigins
from actorchat.http.ports import Caller
from actorchat.http.privacy import PrivacyRoutes
from actorchat.http.problems import Problem
from actorchat.http.proxies import Proxies
from actorchat.http.request_counts import RequestCounts
from actorchat.http.tags import TagRoutes
from actorchat.nodes.node import Node
from actorchat.nodes.registry import NameTaken
from actorchat.protocol import BrokerChannel, BrokerMessage, CloseCode, Profile, Role, User
from actorchat.server.access_control import AccessControl
from actorchat.server.account_administration import AccountAnswer, AccountRequest, administer
from actorchat.server.account_list import AccountAdministration
from actorchat.server.accounts import Accounts
from actorchat.server.attachment_store import open_attachment_store
from actorchat.server.attachments import Attachments
from actorchat.server.auth import Tokens, read_secret
from actorchat.server.binding import bind_sockets
from actorchat.server.blocks import Blocks
from actorchat.server.bootstrap import (
    ServerEnded,
    StartFailed,
    check_public_keys,
    new_folder,
    prepare_tokens,
    previous_secrets,
    tls_context,
)
from actorchat.server.embedded import EmbeddedSockets, LocalSocket
from actorchat.server.embedded_api import LocalApi
from actorchat.server.environment import Environment
from actorchat.server.inspection import serve_inspection
from actorchat.server.jwks import KeySet
from actorchat.server.keys import PublicKey, load_public_keys
from actorchat.server.metrics import Metrics, Sources
from actorchat.server.node import CacheReloader, check_secrets, encode_statistics, open_node, replaced_by
from actorchat.server.node_inspection import answer_nodes
from actorchat.server.operator_command import operator_options
from actorchat.server.privacy import Privacy
from actorchat.server.privacy_requests import PrivacyAnswer, PrivacyRequest, carry_out
from actorchat.server.restore_plan import BackupFailed, complete_restore
from actorchat.server.scanning import open_scanner
from actorchat.server.server_numbers import server_numbers
from actorchat.server.settings import Settings, broker_urls
from actorchat.server.socket_endings import SocketEndings
from actorchat.server.tracing_setup import open_tracing
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
from actorchat.web import Assets, Pages, public_paths, web_routes

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from actorchat.telemetry.tracing import Tracing

__all__ = [
    "DRAIN_SECONDS",
    "Server",
    "ServerStatistics",
    "administer_accounts",
    "open_server",
    "serve_privacy",
    "start_server",
]

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
    documents: ConsoleDocuments
    journal: Journal
    local: EmbeddedSockets
    access_control: AccessControl
    accounts: Accounts
    blocks: Blocks
    tokens: Tokens
    key_set: KeySet
    attachments: Attachments
    privacy: Privacy
    memory: MemoryTransport
    websockets: ReactorTransport | WebsocketTransport
    http: HttpServer
    relays: Relays | None
    memory_broker: MemoryBroker | None
    has_console: bool
    node: Node | None


@attrs.define
class _State:
    """The mutable state of a server."""

    listener: Listener | None = None
    port: int | None = None
    draining: bool = False
    drained: bool = False
    ended: ServerEnded | None = None
    """Why the server has to stop by itself."""
    on_end: Callable[[], object] = lambda: None

    def end(self, reason: ServerEnded) -> None:
        """Stop the server, which raises `reason` then."""
        self.ended = reason
        self.on_end()


class Server:
    """A running server, made by `open_server`. It stops when that block is left."""

    def __init__(self, settings: Settings, parts: _Parts, state: _State) -> None:
        self.settings: Settings = settings
        self._parts = parts
        self._state = state

    async def drain(self) -> None:
        """Stop accepting, finish pending operations, close all connections. Takes at most `DRAIN_SECONDS`.

        Sockets are closed with 1001 after the last commit, or after `COMMIT_SECONDS`: while storage is unavailable, a
        commit may stay in doubt for longer. Its outcome may still arrive until `DRAIN_SECONDS` have passed.
        """
        parts, state = self._parts, self._state
        state.draining = True
        if parts.node is not None:
            parts.node.state.state = "draining"
            parts.node.registry.announce()
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
            if parts.node is not None:
                await parts.node.flush()
            state.drained = True
        if not state.drained:
            _log.error("draining took longer than %.0f s: the remaining connections are cut", DRAIN_SECONDS)
            parts.http.abort()
        if parts.node is not None and parts.node.reaches_database:
            # Otherwise the others find out in a few seconds.
            with suppress(StorageUnavailable):
                await parts.node.registry.leave()

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
            reason = "does not listen: its setting `port` is None" if self.settings.unix is None else "has no port"
            raise RuntimeError(f"this server {reason}")
        return self._state.port

    @property
    def url(self) -> str:
        """The server's URL on this machine, without a trailing slash; with a Unix socket `unix:` and its path.

        Raises RuntimeError as `port` does.
        """
        if self.settings.unix is not None:
            return f"unix:{self.settings.unix}"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)  # noqa: S104 - read, not bound
        scheme = "http" if self.settings.tls_cert is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def reload_keys(self, settings: Settings) -> None:
        """Use the secret and the public keys of `settings` for tokens from now on, and read their files again.

        Tokens that are signed with keys that are not named any more are refused; open sockets stay open until their
        token expires. The key set at `settings.keys.jwks` is fetched if its address has changed. Raises InvalidSettings
        or StartFailed, and changes nothing, if a key can't be used.
        """
        secret, public_keys, previous = await trio.to_thread.run_sync(_read_keys, settings)
        self._parts.tokens.use_keys(secret or self._parts.tokens.secret, public_keys, previous)
        self._parts.key_set.follow(settings.keys.jwks)

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
        quiet: bool = False,
    ) -> LocalSocket:
        """Open an operator's socket to the room of `chat`. `after` replays as in `connect_visitor`.

        A `quiet` socket is not announced in the room, and can't mark messages or show typing. `sources` are added to
        the sources that the operator belongs to.
        Raises ChatRefused, StorageUnavailable, and ValueError for an id that is not allowed.
        """
        return await self._parts.local.operator(operator, sources, chat, after, profile, quiet=quiet)

    async def connect_feed(
        self, operator: User | int, *, sources: Collection[str], profile: Profile = Profile.EXTENDED
    ) -> LocalSocket:
        """Open an operator's socket to the feed of `sources`.

        `sources` are added to the sources that the operator belongs to.
        Raises ChatRefused, StorageUnavailable, and ValueError for an id that is not allowed.
        """
        return await self._parts.local.feed(operator, sources, profile)

    async def api_for(self, user: User, *, sources: Collection[str] = (), rights: Rights = Rights.OPERATOR) -> LocalApi:
        """Return the operations of the HTTP API (history, accept, close, notes and so on) for `user`.

        `sources` are an operator's widget sources. They are stored without an expiry, unlike the sources of a token.
        `rights` are an operator's rights. The profile of `user` is stored; empty fields keep their stored value.
        Raises ChatRefused, StorageUnavailable, and ValueError for an id that is not allowed.
        """
        parts = self._parts
        stored = await parts.local.record(user, user.role, sources)
        return LocalApi(
            parts.chats,
            parts.access_control,
            parts.attachments,
            parts.documents,
            parts.blocks,
            parts.accounts,
            stored,
            sources,
            rights,
        )

    async def sign_out(self, user: User) -> None:
        """Make all tokens of `user` worthless that were issued until now, end their sign-ins, close all their sockets.

        The sockets are closed with 4410. Returns when that is stored. Raises ChatRefused.
        """
        await self._parts.accounts.sign_out(Caller(user, frozenset(), inf, by_token=False))

    def console_link(self) -> str | None:
        """Return an address that signs an administrator in to the console, once and within 15 minutes.

        The account is the first administrator's, which is created if there is none. None without a console, and on
        a Unix socket, where browsers can't open it.
        Raises RuntimeError as `port` does.
        """
        if not self._parts.has_console or self.settings.unix is not None:
            return None
        return f"{self.url}/console#sign-in={self._parts.accounts.one_time_code()}"

    def issue_token(
        self, user: User, *, sources: Collection[str] = (), ttl: float = 3600.0, rights: Rights | None = None
    ) -> str:
        """Return a signed token for `user`, valid for `ttl` seconds, for example for a page that the program renders.

        `sources` are an operator's widget sources, `rights` an operator's rights. The token contains the profile of
        `user`. Raises ValueError for an id that is not allowed in a token: an operator's must be below 2^52.
        """
        return self._parts.tokens.issue(user, sources, ttl, rights)

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


def _read_keys(settings: Settings) -> tuple[str | bytes | None, tuple[PublicKey, ...], tuple[bytes, ...]]:
    """Read the secret, the public keys and the previous secrets. The secret is None if it is stored nowhere."""
    public_keys, previous = load_public_keys(settings), previous_secrets(settings)
    if settings.secret is not None or settings.folder is None:
        return settings.secret, public_keys, previous
    try:
        return read_secret(settings.folder), public_keys, previous
    except OSError as error:
        raise StartFailed(f"the secret can't be read: {error.strerror or error}") from None


async def administer_accounts(server: Server, request: AccountRequest) -> AccountAnswer:
    """Carry out a request of the command line about the accounts of `server`."""
    return await administer(server._parts.accounts, request)


async def serve_privacy(server: Server, request: PrivacyRequest) -> PrivacyAnswer:
    """Carry out a request of the command line about a person whose data `server` has."""
    return await carry_out(server._parts.privacy, request)


@asynccontextmanager
async def open_server(
    settings: Settings | None = None,
    *,
    environment: Environment | None = None,
    tracer_provider: TracerProvider | None = None,
) -> AsyncIterator[Server]:
    """Run a server while the block runs. One process may run several, which share nothing.

    Leaving the block drains the server, also if the block was cancelled: accepted operations are stored, and sockets
    are closed with 1001. This is shielded from cancellation and takes at most ten seconds. Exceptions of the block are
    raised as they are, without an exception group. `environment` replaces the real clocks, network and storage;
    `actorchat.testing.simulation` makes one. `tracer_provider` is the program's own OpenTelemetry: the server's spans
    are made with it, whatever the settings say.
    Raises InvalidSettings or StartFailed if the server can't start. If it has to stop by itself, because another server
    has taken over its `node_name`, the block is cancelled, and ServerEnded is raised.
    """
    stop = trio.Event()
    state: _State | None = None
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            run = partial(_run, settings or Settings(), environment or Environment(), stop, tracer_provider)
            server: Server = await nursery.start(run)
            state = server._state
            with trio.CancelScope() as block:
                state.on_end = block.cancel
                if state.ended is not None:
                    block.cancel()
                yield server
        except BaseException as error:
            # Raised again below, because the nursery would wrap it in an exception group.
            failure = error
        stop.set()
    if failure is not None:
        raise failure
    if state is not None and state.ended is not None:
        raise state.ended


async def _run(
    settings: Settings,
    environment: Environment,
    stop: trio.Event,
    tracer_provider: TracerProvider | None,
    *,
    task_status: trio.TaskStatus[Server],
) -> None:
    """Run a server in its own task, so that cancelling the caller's block does not cancel what has to be stored."""
    with trio.CancelScope() as scope:
        async with AsyncExitStack() as stack:
            try:
                server = await start_server(stack, settings, environment, tracer_provider)
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


async def start_server(
    stack: AsyncExitStack,
    settings: Settings,
    environment: Environment,
    tracer_provider: TracerProvider | None = None,
) -> Server:
    """Start a server whose parts are closed with `stack`. Unless `Server.drain` is called first, it ends as if killed.

    Steps that can fail come before steps that leave files: a failed start leaves no new folder and no secret.
    """
    wall, random = environment.wall, environment.random
    tls = tls_context(settings)
    check_public_keys(settings)
    # First, because it ends last: spans of the parts that stop are sent too.
    tracing = await open_tracing(stack, settings, tracer_provider)
    sockets = await bind_sockets(stack, settings, environment)
    for sock in sockets:
        stack.callback(sock.close)
    with new_folder(settings.folder), _complete_restore(settings), prepare_tokens(settings, wall) as make_tokens:
        store = await stack.enter_async_context(open_attachment_store(settings, environment.open_blobs))
        storage = await _open_storage(stack, settings, environment)
        store.use_for(storage.identity)
        writer = f"{random.getrandbits(128):032x}"
        node = await _open_node(stack, settings, environment, storage, writer, sockets)
        # Before the first nursery, which would wrap a failed start in an exception group.
        stored_accounts, stored_blocks = await _read_accounts_and_blocks(storage.chat_reader)
        tokens = make_tokens()
        if node is not None:
            await _check_secrets(node, tokens)
    links = SignedLinks(
        tokens.derive_key("attachments"),
        wall,
        seconds=settings.attachments.link_seconds,
        base=settings.attachments.url or settings.base_path,
    )
    memory_broker, relays = await _open_relays(stack, settings, environment, storage, links, tracing, node)
    journal = await stack.enter_async_context(
        open_journal(
            storage.store,
            storage.runner,
            capacity=environment.journal_capacity,
            clock=storage.clock or wall,
            writer=writer,
            tidy=storage.tidy,
            committed=_committed(storage, relays, node),
            observe=None if tracing is None else tracing.commits.committed,
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
            kept_parameters=settings.chat.page_parameters,
            elsewhere=node,
        )
    )
    users = UserCache(chats, random, wall)
    accounts = Accounts(
        chats,
        tokens,
        settings.accounts,
        sources=settings.sources,
        capacity=settings.chat.capacity,
        clock=wall,
        random=random,
    )
    blocks = Blocks(
        chats,
        networks=settings.blocked.addresses,
        users=settings.blocked.users,
        clock=wall,
    )
    accounts.load(stored_accounts)
    blocks.load(stored_blocks)
    chats.search = storage.search
    if storage.search is not None:
        _follow_people(chats, storage.search)
    key_set = KeySet(settings.keys.jwks, tokens.use_external_keys)
    tokens.use_external_keys(None if settings.keys.jwks is None else ())
    access_control = AccessControl(
        chats,
        tokens,
        users,
        accounts,
        blocks,
        anonymous=settings.anonymous,
        origins={source: AllowedOrigins(origins) for source, origins in settings.source_origins.items()},
        other_origins=AllowedOrigins(settings.origins) if settings.source_origins else None,
        key_set=key_set,
        sources=settings.sources,
        visitors_per_minute=settings.limits.visitors_per_minute,
        chats_per_minute=settings.limits.chats_per_minute,
        address_chats_per_minute=settings.limits.address_chats_per_minute,
    )
    routes = WebsocketRoutes(chats)
    spans = None if tracing is None else tracing.sockets(routes)
    application = spans or routes
    memory = await stack.enter_async_context(open_memory_transport(application, limits=environment.sockets, wall=wall))
    websockets = await stack.enter_async_context(_open_websockets(settings, application, environment))
    memory.sessions.observer = websockets.sessions.observer = spans
    if tracing is not None:
        chats.submitter.on_operation = tracing.commits.on_operation
    state = _State()

    endings = SocketEndings((memory.sessions, websockets.sessions), accounts, blocks)
    chats.people.on_sign_out = endings.end_signed_out
    blocks.on_block = endings.end_blocked

    def unready() -> Problem | None:
        if state.draining:
            return Problem("draining", "the server is stopping")
        if journal.statistics().away:
            return Problem("storage_unavailable", "storage is unavailable")
        if storage.chat_reader.unreadable:
            return Problem("storage_unavailable", "storage can't be read")
        if node is not None and not node.reaches_database:
            return Problem("storage_unavailable", "the other servers can't be told that this one is here")
        return None

    origins = AllowedOrigins([*settings.origins, *chain.from_iterable(settings.source_origins.values())])
    proxies = Proxies(settings.http.trusted_proxies, settings.http.proxy_headers)
    attachments = Attachments(
        chats,
        store,
        links,
        await stack.enter_async_context(open_scanner(settings.attachments)),
        settings.attachments,
        rules=settings.file_rules,
        clock=wall,
        random=random,
    )
    chats.on_removed = attachments.remove_soon
    assets = Assets.of_package()
    source = settings.sources[0] if settings.sources else "lk"
    pages = Pages(assets, source, partial(operator_options, settings))
    counts = RequestCounts()
    numbers = Sources(
        system=system,
        requests=counts,
        journal=journal.statistics,
        chats=chats.statistics,
        uploads=attachments.statistics,
        brokers=tuple if relays is None else relays.statistics,
        messages=storage.messages,
        losses=lambda: 0 if node is None else node.losses,
        sockets=lambda: len(websockets.sessions),
        memory_sockets=lambda: len(memory.sessions),
        slow_sockets=lambda: websockets.sessions.given_up + memory.sessions.given_up,
        http_connections=lambda: len(http),
        draining=lambda: state.draining,
        storage_readable=lambda: not storage.chat_reader.unreadable,
    )
    metrics = Metrics(settings.metrics, numbers)
    actors = ActorTree(system)
    documents = ConsoleDocuments(chats, settings.file_rules, settings.limits.text_length)
    privacy = Privacy(chats, accounts, attachments, wall)
    app = make_app(
        chats,
        access_control,
        attachments,
        documents,
        accounts,
        blocks,
        origins=origins,
        cors_headers=settings.http.cors_headers,
        proxies=proxies,
        unready=unready,
        brokers=None if relays is None else partial(_broker_states, settings, relays),
        bus=None if node is None else lambda: "ok" if node.bus.problem is None else "unavailable",
        losses=None if node is None else lambda: node.losses,
        pages=[
            *web_routes(assets, pages),
            Route("/metrics", metrics.answer),
            *PrivacyRoutes(access_control, privacy).routes(),
            *AccountListRoutes(access_control, AccountAdministration(chats, accounts, wall)).routes(),
            *TagRoutes(access_control, chats, wall).routes(),
            *LiveRoutes(access_control, actors, partial(server_numbers, numbers, wall)).routes(),
        ],
        is_public=public_paths,
        counts=counts,
        base_path=settings.base_path,
        traced=None if tracing is None else tracing.requests,
    )
    http = HttpServer(app, keep_alive=settings.http.keep_alive)
    parts = _Parts(
        chats=chats,
        documents=documents,
        journal=journal,
        local=EmbeddedSockets(chats, users, memory),
        access_control=access_control,
        accounts=accounts,
        blocks=blocks,
        tokens=tokens,
        key_set=key_set,
        attachments=attachments,
        privacy=privacy,
        memory=memory,
        websockets=websockets,
        http=http,
        relays=relays,
        memory_broker=memory_broker,
        has_console=assets.get("console.html") is not None,
        node=node,
    )
    nursery = await stack.enter_async_context(trio.open_nursery())
    stack.callback(nursery.cancel_scope.cancel)
    nursery.start_soon(storage.chat_reader.watch)
    if node is not None and chats.remote is not None:
        reloader = CacheReloader(storage.chat_reader, accounts, blocks, endings.end_disabled)
        reloader.follow(chats.caches, users, documents.forget_widget)
        nursery.start_soon(reloader.run)
        if relays is not None:
            node.on_foreign_commit = relays.committed
        node.state.statistics = lambda: encode_statistics(
            sockets=len(websockets.sessions) + len(memory.sessions),
            lag=node.lag,
            losses=node.losses,
            secrets=tokens.fingerprints(),
        )
        node.state.cut_off = endings.end_all
        node.state.replaced = lambda holder: state.end(replaced_by(holder))
        await nursery.start(node.run, chats, chats.remote)
        nursery.start_soon(answer_nodes, node.registry, actors)
    nursery.start_soon(key_set.watch)
    nursery.start_soon(attachments.delete_removed)
    if storage.search is not None and storage.search.in_background:
        nursery.start_soon(storage.search.run, lambda: journal.statistics().operations)
    if settings.folder is None:
        attachments.sweep_after_first_upload(nursery)
    else:
        await attachments.clean()
        nursery.start_soon(attachments.sweep)
        folder = environment.process_folder or settings.folder
        await nursery.start(serve_inspection, folder, actors, accounts, privacy)
    if sockets:
        access = WebsocketAccess(
            access_control,
            origins,
            proxies,
            max_sockets={
                Role.USER: settings.limits.visitor_sockets,
                Role.OPERATOR: settings.limits.operator_sockets,
            },
            count=websockets.sessions.count,
            base_path=settings.base_path,
        )
        listener = Listener(
            sockets,
            transport=websockets,
            authorize=access if spans is None else spans.traced(access),
            http=_http_side(http),
            tls=tls,
            max_connections=environment.connections(),
            close_idle=http.close_idle,
            kernel=environment.kernel,
        )
        state.listener, state.port = listener, None if settings.unix is not None else listener.port
        await nursery.start(listener.serve)
    if node is not None:
        node.state.state = "ready"
        # If the name is taken, the node itself finds out again.
        with suppress(StorageUnavailable, NameTaken):
            await node.registry.renew()
    return Server(settings, parts, state)


async def _open_node(
    stack: AsyncExitStack,
    settings: Settings,
    environment: Environment,
    storage: Storage,
    writer: str,
    sockets: tuple[socket.socket, ...],
) -> Node | None:
    try:
        return await open_node(stack, settings, environment, storage, writer, sockets)
    except StorageUnavailable as error:
        raise StartFailed(f"the storage can't be used: {error}") from None


async def _check_secrets(node: Node, tokens: Tokens) -> None:
    try:
        await check_secrets(node, tokens)
    except StorageUnavailable as error:
        raise StartFailed(f"the storage can't be used: {error}") from None
    except NameTaken as error:
        raise StartFailed(str(replaced_by(error.holder))) from None


@contextmanager
def _complete_restore(settings: Settings) -> Iterator[None]:
    """Before the block, finish a restore that was killed after it had taken effect."""
    path = settings.database_file
    if settings.folder is not None and path is not None:
        try:
            if complete_restore(settings.folder, path):
                _log.warning("a restore that had been interrupted is complete now")
        except (BackupFailed, StorageUnavailable, StoreUrlError) as error:
            raise StartFailed(f"an interrupted restore can't be completed: {error}") from None
    yield


def _committed(storage: Storage, relays: Relays | None, node: Node | None) -> Callable[[], object] | None:
    """Return what is called after each commit: it tells other servers, and wakes the relays and the search index."""
    search = storage.search if storage.search is not None and storage.search.in_background else None
    calls: list[Callable[[], object]] = []
    if node is not None:
        calls.append(node.committed)
    if relays is not None:
        calls.append(relays.committed)
    if search is not None:
        calls.append(search.changed)
    if len(calls) < 2:
        return calls[0] if calls else None

    def committed() -> None:
        for call in calls:
            call()

    return committed


def _follow_people(chats: ChatService, search: Search) -> None:
    """Report each stored record of a person to the search index as well."""
    remember = chats.people.on_person

    def stored(person: PersonRecord) -> None:
        remember(person)
        search.person_changed((person.user,))

    chats.people.on_person = stored
    chats.caches.owners_changed = search.owners_changed


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


async def _open_storage(stack: AsyncExitStack, settings: Settings, environment: Environment) -> Storage:
    try:
        return await stack.enter_async_context(
            environment.open_store(
                settings.storage_url,
                settings.policy,
                clock=environment.wall,
                brokers=[url.name for url in broker_urls(settings)],
                folder=environment.process_folder or settings.folder,
            )
        )
    except (StorageUnavailable, StoreUrlError) as error:
        raise StartFailed(f"the storage can't be used: {error}") from None


async def _read_accounts_and_blocks(reader: ChatReader) -> tuple[tuple[Account, ...], tuple[Block, ...]]:
    try:
        return await reader.accounts(), await reader.blocks()
    except StorageUnavailable as error:
        raise StartFailed(f"the storage can't be used: {error}") from None


async def _open_relays(
    stack: AsyncExitStack,
    settings: Settings,
    environment: Environment,
    storage: Storage,
    links: Links,
    tracing: Tracing | None,
    node: Node | None,
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
                observe=None if tracing is None else tracing.publishing.publishing,
                lease=None if node is None else partial(node.holds, "relay"),
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

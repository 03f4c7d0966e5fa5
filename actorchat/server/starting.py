"""Starts the parts of a server, in an order in which each finds those that it uses."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import trio
from starlette.routing import Route

from actorchat.actor_tree import ActorTree
from actorchat.actors import open_system
from actorchat.blobs.links import SignedLinks
from actorchat.brokers import MemoryBroker, Relays, open_broker, open_relays
from actorchat.chat.console_documents import ConsoleDocuments
from actorchat.chat.limits import Limits
from actorchat.chat.links import Links
from actorchat.chat.model import PersonRecord
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.search import Search
from actorchat.chat.service import ChatService, open_chats, settle_dead_letter
from actorchat.http.account_administration import AccountListRoutes
from actorchat.http.app import make_app
from actorchat.http.connection import HttpServer
from actorchat.http.live import LiveRoutes
from actorchat.http.origins import AllowedOrigins
from actorchat.http.privacy import PrivacyRoutes
from actorchat.http.proxies import Proxies
from actorchat.http.request_counts import RequestCounts
from actorchat.http.tags import TagRoutes
from actorchat.nodes.node import Node
from actorchat.nodes.registry import NameTaken
from actorchat.protocol import Role
from actorchat.server.access_control import AccessControl
from actorchat.server.account_list import AccountAdministration
from actorchat.server.accounts import Accounts
from actorchat.server.attachments import Attachments
from actorchat.server.auth import Tokens
from actorchat.server.base import Base, open_base
from actorchat.server.binding import bind_sockets
from actorchat.server.blocks import Blocks
from actorchat.server.bootstrap import StartFailed, check_public_keys, tls_context
from actorchat.server.embedded import EmbeddedSockets
from actorchat.server.environment import Environment
from actorchat.server.inspection import serve_inspection
from actorchat.server.jwks import KeySet
from actorchat.server.metrics import Metrics, Sources
from actorchat.server.node import CacheReloader, encode_statistics, replaced_by
from actorchat.server.node_inspection import answer_nodes
from actorchat.server.operator_command import operator_options
from actorchat.server.parts import Parts, State
from actorchat.server.privacy import Privacy
from actorchat.server.readiness import Readiness
from actorchat.server.scanning import open_scanner
from actorchat.server.server_numbers import server_numbers
from actorchat.server.settings import Settings, broker_urls
from actorchat.server.socket_endings import SocketEndings
from actorchat.server.tracing_setup import open_tracing
from actorchat.server.user_cache import UserCache
from actorchat.server.websocket_routes import WebsocketAccess, WebsocketRoutes
from actorchat.storage import Journal, Storage, open_journal
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

__all__ = ["start_parts"]


async def start_parts(
    stack: AsyncExitStack, settings: Settings, environment: Environment, tracer_provider: TracerProvider | None
) -> tuple[Parts, HttpServer, State]:
    """Start the parts of a server and its tasks, which end with `stack`. Raises StartFailed and OSError."""
    tls = tls_context(settings)
    check_public_keys(settings)
    # First, because it ends last: spans of the parts that stop are sent too.
    tracing = await open_tracing(stack, settings, tracer_provider)
    sockets = await bind_sockets(stack, settings, environment)
    for sock in sockets:
        stack.callback(sock.close)
    base = await open_base(stack, settings, environment, sockets)
    state = State()
    parts = await _open_parts(stack, settings, environment, base, tracing)
    actors = ActorTree(parts.system, "" if parts.node is None else parts.node.registry.name)
    http = _make_http(settings, environment, parts, state, actors)
    nursery = await stack.enter_async_context(trio.open_nursery())
    stack.callback(nursery.cancel_scope.cancel)
    nursery.start_soon(parts.storage.chat_reader.watch)
    if parts.node is not None:
        await _join_nodes(nursery, parts.node, parts, state, actors)
    await _start_tasks(nursery, settings, environment, parts, actors)
    if sockets:
        listener = _make_listener(settings, environment, parts, http, sockets, tls)
        state.listener, state.port = listener, None if settings.unix is not None else listener.port
        await nursery.start(listener.serve)
    if parts.node is not None:
        parts.node.state.state = "ready"
        # If the name is taken, the node itself finds out again.
        with suppress(StorageUnavailable, NameTaken):
            await parts.node.registry.renew()
    return parts, http, state


async def _open_parts(
    stack: AsyncExitStack, settings: Settings, environment: Environment, base: Base, tracing: Tracing | None
) -> Parts:
    wall, random, storage, tokens = environment.wall, environment.random, base.storage, base.tokens
    links = SignedLinks(
        tokens.derive_key("attachments"),
        wall,
        seconds=settings.attachments.link_seconds,
        base=settings.attachments.url or settings.base_path,
    )
    memory_broker, relays = await _open_relays(stack, settings, environment, base, links, tracing)
    journal = await _open_journal(stack, environment, base, relays, tracing)
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
            elsewhere=base.node,
        )
    )
    users = UserCache(chats, random, wall)
    accounts, blocks = _make_accounts_and_blocks(settings, environment, base, chats)
    chats.search = storage.search
    if storage.search is not None:
        _follow_people(chats, storage.search)
    if tracing is not None:
        chats.submitter.on_operation = tracing.commits.on_operation
    key_set = KeySet(settings.keys.jwks, tokens.use_external_keys)
    tokens.use_external_keys(None if settings.keys.jwks is None else ())
    routes = WebsocketRoutes(chats)
    spans = None if tracing is None else tracing.sockets(routes)
    memory, websockets = await _open_transports(stack, settings, environment, spans or routes)
    memory.sessions.observer = websockets.sessions.observer = spans
    endings = SocketEndings((memory.sessions, websockets.sessions), accounts, blocks)
    chats.people.on_sign_out = endings.end_signed_out
    blocks.on_block = endings.end_blocked
    attachments = Attachments(
        chats,
        base.files,
        links,
        await stack.enter_async_context(open_scanner(settings.attachments)),
        settings.attachments,
        rules=settings.file_rules,
        clock=wall,
        random=random,
    )
    chats.on_removed = attachments.remove_soon
    return Parts(
        system=system,
        chats=chats,
        documents=ConsoleDocuments(chats, settings.file_rules, settings.limits.text_length),
        journal=journal,
        storage=storage,
        users=users,
        local=EmbeddedSockets(chats, users, memory),
        access_control=_make_access_control(settings, chats, tokens, users, accounts, blocks, key_set),
        accounts=accounts,
        blocks=blocks,
        tokens=tokens,
        key_set=key_set,
        origins=AllowedOrigins([*settings.origins, *chain.from_iterable(settings.source_origins.values())]),
        proxies=Proxies(settings.http.trusted_proxies, settings.http.proxy_headers),
        attachments=attachments,
        privacy=Privacy(chats, accounts, attachments, wall),
        memory=memory,
        websockets=websockets,
        endings=endings,
        relays=relays,
        memory_broker=memory_broker,
        node=base.node,
        tracing=tracing,
        spans=spans,
        assets=Assets.of_package(),
    )


async def _open_journal(
    stack: AsyncExitStack, environment: Environment, base: Base, relays: Relays | None, tracing: Tracing | None
) -> Journal:
    storage = base.storage
    return await stack.enter_async_context(
        open_journal(
            storage.store,
            storage.runner,
            capacity=environment.journal_capacity,
            clock=storage.clock or environment.wall,
            writer=base.writer,
            tidy=storage.tidy,
            committed=_committed(storage, relays, base.node),
            observe=None if tracing is None else tracing.commits.committed,
        )
    )


def _make_accounts_and_blocks(
    settings: Settings, environment: Environment, base: Base, chats: ChatService
) -> tuple[Accounts, Blocks]:
    accounts = Accounts(
        chats,
        base.tokens,
        settings.accounts,
        sources=settings.sources,
        capacity=settings.chat.capacity,
        clock=environment.wall,
        random=environment.random,
    )
    accounts.load(base.accounts)
    blocks = Blocks(
        chats,
        networks=settings.blocked.addresses,
        users=settings.blocked.users,
        clock=environment.wall,
    )
    blocks.load(base.blocks)
    return accounts, blocks


def _make_access_control(
    settings: Settings,
    chats: ChatService,
    tokens: Tokens,
    users: UserCache,
    accounts: Accounts,
    blocks: Blocks,
    key_set: KeySet,
) -> AccessControl:
    return AccessControl(
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


async def _open_transports(
    stack: AsyncExitStack, settings: Settings, environment: Environment, application: Application
) -> tuple[MemoryTransport, ReactorTransport | WebsocketTransport]:
    memory = open_memory_transport(application, limits=environment.sockets, wall=environment.wall)
    websockets: AbstractAsyncContextManager[ReactorTransport | WebsocketTransport]
    if settings.websocket_transport == "reactor":
        websockets = open_reactor_transport(
            application,
            limits=environment.sockets,
            wall=environment.wall,
            clock=environment.stopwatch,
            kernel=environment.kernel,
        )
    else:
        websockets = open_websocket_transport(application, limits=environment.sockets, wall=environment.wall)
    return await stack.enter_async_context(memory), await stack.enter_async_context(websockets)


def _make_http(
    settings: Settings, environment: Environment, parts: Parts, state: State, actors: ActorTree
) -> HttpServer:
    node, relays, access_control = parts.node, parts.relays, parts.access_control
    counts = RequestCounts()
    # The metrics count the connections of `http`, which serves the app that shows them.
    numbers = _sources(parts, state, counts, lambda: len(http))
    source = settings.sources[0] if settings.sources else "lk"
    administration = AccountAdministration(parts.chats, parts.accounts, environment.wall)
    app = make_app(
        parts.chats,
        access_control,
        parts.attachments,
        parts.documents,
        parts.accounts,
        parts.blocks,
        origins=parts.origins,
        cors_headers=settings.http.cors_headers,
        proxies=parts.proxies,
        unready=Readiness(state, parts.journal, parts.storage.chat_reader, node).problem,
        brokers=None if relays is None else partial(_broker_states, settings, relays),
        bus=None if node is None else lambda: "ok" if node.bus.problem is None else "unavailable",
        losses=None if node is None else lambda: node.losses,
        pages=[
            *web_routes(parts.assets, Pages(parts.assets, source, partial(operator_options, settings))),
            Route("/metrics", Metrics(settings.metrics, numbers).answer),
            *PrivacyRoutes(access_control, parts.privacy).routes(),
            *AccountListRoutes(access_control, administration).routes(),
            *TagRoutes(access_control, parts.chats, environment.wall).routes(),
            *LiveRoutes(access_control, actors, partial(server_numbers, numbers, environment.wall)).routes(),
        ],
        is_public=public_paths,
        counts=counts,
        base_path=settings.base_path,
        traced=None if parts.tracing is None else parts.tracing.requests,
    )
    http = HttpServer(app, keep_alive=settings.http.keep_alive)
    return http


def _sources(parts: Parts, state: State, counts: RequestCounts, http_connections: Callable[[], int]) -> Sources:
    memory, websockets, node = parts.memory.sessions, parts.websockets.sessions, parts.node
    return Sources(
        system=parts.system,
        requests=counts,
        journal=parts.journal.statistics,
        chats=parts.chats.statistics,
        uploads=parts.attachments.statistics,
        brokers=tuple if parts.relays is None else parts.relays.statistics,
        messages=parts.storage.messages,
        losses=lambda: 0 if node is None else node.losses,
        sockets=lambda: len(websockets),
        memory_sockets=lambda: len(memory),
        slow_sockets=lambda: websockets.given_up + memory.given_up,
        http_connections=http_connections,
        draining=lambda: state.draining,
        storage_readable=lambda: not parts.storage.chat_reader.unreadable,
    )


async def _join_nodes(nursery: trio.Nursery, node: Node, parts: Parts, state: State, actors: ActorTree) -> None:
    """Start what follows the other nodes, and tells them of this one."""
    chats = parts.chats
    assert chats.remote is not None  # noqa: S101 - the chats were opened with the node
    reloader = CacheReloader(parts.storage.chat_reader, parts.accounts, parts.blocks, parts.endings.end_disabled)
    reloader.follow(chats.caches, parts.users, parts.documents.forget_widget)
    nursery.start_soon(reloader.run)
    if parts.relays is not None:
        node.on_foreign_commit = parts.relays.committed
    node.state.statistics = lambda: encode_statistics(
        sockets=len(parts.websockets.sessions) + len(parts.memory.sessions),
        lag=node.lag,
        losses=node.losses,
        secrets=parts.tokens.fingerprints(),
        bus=node.state.bus,
    )
    node.state.cut_off = parts.endings.end_all
    node.state.replaced = lambda holder: state.end(replaced_by(holder))
    await nursery.start(node.run, chats, chats.remote)
    nursery.start_soon(answer_nodes, node.registry, actors)


async def _start_tasks(
    nursery: trio.Nursery, settings: Settings, environment: Environment, parts: Parts, actors: ActorTree
) -> None:
    attachments, search = parts.attachments, parts.storage.search
    nursery.start_soon(parts.key_set.watch)
    nursery.start_soon(attachments.delete_removed)
    if search is not None and search.in_background:
        nursery.start_soon(search.run, lambda: parts.journal.statistics().operations)
    if settings.folder is None:
        attachments.sweep_after_first_upload(nursery)
        return
    await attachments.clean()
    nursery.start_soon(attachments.sweep)
    folder = environment.process_folder or settings.folder
    await nursery.start(serve_inspection, folder, actors, parts.accounts, parts.privacy)


def _make_listener(
    settings: Settings,
    environment: Environment,
    parts: Parts,
    http: HttpServer,
    sockets: tuple[socket.socket, ...],
    tls: ssl.SSLContext | None,
) -> Listener:
    access = WebsocketAccess(
        parts.access_control,
        parts.origins,
        parts.proxies,
        max_sockets={
            Role.USER: settings.limits.visitor_sockets,
            Role.OPERATOR: settings.limits.operator_sockets,
        },
        count=parts.websockets.sessions.count,
        base_path=settings.base_path,
    )
    return Listener(
        sockets,
        transport=parts.websockets,
        authorize=access if parts.spans is None else parts.spans.traced(access),
        http=_http_side(http),
        tls=tls,
        max_connections=environment.connections(),
        close_idle=http.close_idle,
        kernel=environment.kernel,
    )


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


async def _open_relays(
    stack: AsyncExitStack,
    settings: Settings,
    environment: Environment,
    base: Base,
    links: Links,
    tracing: Tracing | None,
) -> tuple[MemoryBroker | None, Relays | None]:
    if base.storage.log is None:
        return None, None
    brokers = {url.name: open_broker(url) for url in broker_urls(settings)}
    memory = next((broker for broker in brokers.values() if isinstance(broker, MemoryBroker)), None)
    try:
        relays = await stack.enter_async_context(
            open_relays(
                brokers,
                base.storage.log,
                links=links,
                keep=settings.broker_keep,
                clock=environment.wall,
                random=environment.random,
                observe=None if tracing is None else tracing.publishing.publishing,
                lease=None if base.node is None else partial(base.node.holds, "relay"),
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

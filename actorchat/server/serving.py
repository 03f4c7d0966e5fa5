"""Runs a server, and is its interface for embedding programs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import attrs
import trio

from actorchat.brokers import RelayStatistics
from actorchat.chat.accounts import Rights
from actorchat.chat.ports import StorageUnavailable
from actorchat.http.connection import HttpServer
from actorchat.http.ports import Caller
from actorchat.protocol import BrokerChannel, BrokerMessage, CloseCode, Profile, User
from actorchat.server.account_administration import AccountAnswer, AccountRequest, administer
from actorchat.server.auth import read_secret
from actorchat.server.bootstrap import StartFailed, previous_secrets, tls_context
from actorchat.server.embedded import LocalSocket
from actorchat.server.embedded_api import LocalApi
from actorchat.server.environment import Environment
from actorchat.server.keys import PublicKey, load_public_keys
from actorchat.server.parts import Parts, State
from actorchat.server.privacy_requests import PrivacyAnswer, PrivacyRequest, carry_out
from actorchat.server.settings import Settings
from actorchat.server.starting import start_parts
from actorchat.storage import JournalStatistics

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

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


class Server:
    """A running server, made by `open_server`. It stops when that block is left."""

    def __init__(self, settings: Settings, parts: Parts, http: HttpServer, state: State) -> None:
        self.settings: Settings = settings
        self._parts = parts
        self._http = http
        self._state = state

    async def drain(self) -> None:
        """Stop accepting, finish pending operations, close all connections. That takes at most `DRAIN_SECONDS`.

        Then a node takes itself off the list of nodes, if it has finished in time and the database answers: that call
        can't be cancelled, and so takes ten seconds at most if the database has just ceased to answer.
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
            self._http.abort()
        elif parts.node is not None and parts.node.database_answers:
            # Otherwise its lease runs out in a few seconds. So it does if commits may still arrive.
            with suppress(StorageUnavailable):
                await parts.node.registry.leave()

    async def _finish_operations(self, committed: trio.Event) -> None:
        """Set `committed` once all accepted operations are committed or refused, and their events sent."""
        await self._parts.chats.drain()
        await self._parts.journal.barrier()
        committed.set()

    async def _end_http(self, committed: trio.Event) -> None:
        """Close idle HTTP connections at once, and others after their answer or when time is up."""
        http, ended = self._http, trio.Event()

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
        if "console.html" not in self._parts.assets or self.settings.unix is not None:
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
            http_connections=len(self._http),
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
    state: State | None = None
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
    parts, http, state = await start_parts(stack, settings, environment, tracer_provider)
    return Server(settings, parts, http, state)

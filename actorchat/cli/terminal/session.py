"""Runs a whole terminal session: signs in, opens the UI and the connections, and runs the chat or the chat list."""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from actorchat.cli.terminal.chat_list import ChatListSession
from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.identity import (
    IdentityError,
    VisitorTokens,
    make_operator_token,
    names_sources,
    user_in_token,
)
from actorchat.cli.terminal.line_ui import LineUi
from actorchat.cli.terminal.open_chat import OpenChat, initial_index
from actorchat.cli.terminal.ui import TerminalUi
from actorchat.cli.text import QUOTED_WIDTH, shorten
from actorchat.client import Api, ApiError, NoSuchChat, Visit, open_api, open_feed, open_room
from actorchat.client.server_urls import ServerAddress
from actorchat.protocol.entities import Role

DEFAULT_SOURCE = "lk"


@attrs.frozen
class SessionOptions:
    """The options of `actorchat chat`; ``source`` None means the default source, or all sources of a given token.

    An operator without a token has a ``secret`` that signs one, or a ``data`` folder with a secret.
    """

    server: ServerAddress
    source: str | None
    token: str | None
    data: Path | None
    secret: str | None
    visitor_tokens: VisitorTokens
    user_id: int
    name: str

    @property
    def url(self) -> str:
        """The server's address."""
        return self.server.origin


class Unsent(Exception):  # noqa: N818 - says what happened, not that it was a fault
    """The user left while these texts were still being sent."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__("perhaps not sent: " + "; ".join(shorten(text, QUOTED_WIDTH) for text in texts))


class NoSuchSource(Exception):  # noqa: N818 - names what the server does not have
    """The server does not know the widget source."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"{detail}; choose a source with --source")


class LinesFailed(Exception):  # noqa: N818 - says what happened
    """Lines of a script failed; the reasons were printed when it happened."""


async def run_session(options: SessionOptions, *, operator: bool) -> None:
    """Chat until the user leaves, or SIGINT, SIGTERM or SIGHUP arrives.

    Raises ClientError, IdentityError, NoSuchSource, LinesFailed and Unsent, alone or in exception groups.
    """
    async with trio.open_nursery() as nursery:
        # Started first, because the next steps take a while: they import modules and load certificates.
        await nursery.start(_cancel_on_signal, nursery.cancel_scope)
        await (_run_operator(options) if operator else _run_visitor(options))
        nursery.cancel_scope.cancel()


async def _cancel_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    hang_up = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *hang_up) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def _run_visitor(options: SessionOptions) -> None:
    visit = await _start_visit(options)
    async with open_api(options.url, token=visit.token) as api:
        after = await initial_index(api, visit.chat.uuid)
        async with (
            _open_ui() as ui,
            open_room(options.url, visit.chat.uuid, token=visit.token, after=after) as room,
        ):
            open_chat = OpenChat(ui, api, room, ChatView(visit.user, visit.chat, server=api.origin))
            await open_chat.run()
        if open_chat.unconfirmed_texts:
            raise Unsent(open_chat.unconfirmed_texts)
        _raise_if_lines_failed(ui, open_chat.failed_lines)


async def _start_visit(options: SessionOptions) -> Visit:
    source = options.source or DEFAULT_SOURCE
    if options.token is not None:
        async with open_api(options.url, token=options.token) as api:
            return await _visit_source(api, source)
    remembered = options.visitor_tokens.load(options.url, source)
    visit = None if remembered is None else await _resume_visit(options, source, remembered)
    if visit is None:
        async with open_api(options.url) as api:
            visit = await _visit_source(api, source)
    options.visitor_tokens.save(options.url, source, visit.token)
    return visit


async def _visit_source(api: Api, source: str) -> Visit:
    try:
        return await api.visit(source)
    except ApiError as error:
        if error.code != "not_found":
            raise
        raise NoSuchSource(error.detail) from None


async def _resume_visit(options: SessionOptions, source: str, token: str) -> Visit | None:
    async with open_api(options.url, token=token) as api:
        try:
            return await _visit_source(api, source)
        except ApiError as error:
            if error.status != 401:
                raise
            # The token has expired, or the server has a new secret: start as a new visitor.
            return None


async def _run_operator(options: SessionOptions) -> None:
    if options.token is not None:
        token, sources = options.token, () if options.source is None else (options.source,)
    else:
        source = options.source or DEFAULT_SOURCE
        token = make_operator_token(options.data or Path(), options.secret, options.user_id, options.name, source)
        sources = (source,)
    me = user_in_token(token)
    if me.role is not Role.OPERATOR:
        raise IdentityError("--token is a visitor's token, but --operator needs an operator's token")
    if not names_sources(token):
        raise IdentityError(
            "--token names no widget source, so it gives access to no chats; make one that does: "
            f"actorchat token --role operator --user-id {me.id} --source {options.source or DEFAULT_SOURCE}"
        )
    async with (
        open_api(options.url, token=token) as api,
        _open_ui() as ui,
        open_feed(options.url, token=token, sources=sources) as feed,
    ):
        chat_list = ChatListSession(ui, api, feed, me, options.url, token, sources[0] if sources else None)
        try:
            await chat_list.run()
        except NoSuchChat as error:
            raise NoSuchSource(error.detail) from None
    _raise_if_lines_failed(ui, chat_list.failed_lines)


def _raise_if_lines_failed(ui: TerminalUi, count: int) -> None:
    # A user at a screen has seen the failures; a script needs an exit status.
    if count and ui.scripted:
        raise LinesFailed("a line of input failed" if count == 1 else f"{count} lines of input failed")


@asynccontextmanager
async def _open_ui() -> AsyncIterator[TerminalUi]:
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        yield LineUi()
        return
    # Imported here, because it is slow and scripts do not need it.
    from actorchat.cli.terminal.screen_ui import open_screen

    async with open_screen() as screen:
        yield screen

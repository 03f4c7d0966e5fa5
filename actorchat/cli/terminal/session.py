"""Owns a whole session at the terminal: who sits there, which terminal it is, and when it ends.

Refuses to know the command line.
"""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from actorchat.cli.terminal.chat_list import ChatListSession
from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.conversation import Conversation, first_index
from actorchat.cli.terminal.identity import (
    IdentityError,
    VisitorMemory,
    make_operator_token,
    names_sources,
    user_of,
)
from actorchat.cli.terminal.line_ui import LineUi
from actorchat.cli.terminal.ui import TerminalUi
from actorchat.cli.text import QUOTED_WIDTH, shorten
from actorchat.client import Api, ApiError, NoSuchChat, Visit, open_api, open_feed, open_room
from actorchat.client.server_urls import ServerAddress
from actorchat.protocol.entities import Role

DEFAULT_SOURCE = "lk"


@attrs.frozen
class SessionOptions:
    """What was asked for; ``source`` None is the default one, or all of a given token's."""

    server: ServerAddress
    source: str | None
    token: str | None
    data: Path | None
    memory: VisitorMemory
    user_id: int
    name: str

    @property
    def url(self) -> str:
        """The server's address."""
        return self.server.origin


class Unsent(Exception):  # noqa: N818 - says what happened, not that it was a fault
    """The user left while these texts were on their way."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__("perhaps not sent: " + "; ".join(shorten(text, QUOTED_WIDTH) for text in texts))


class NoSuchSource(Exception):  # noqa: N818 - names what the server does not have
    """The server has no such widget source."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"{detail}; choose a source with --source")


class Refused(Exception):  # noqa: N818 - says what happened
    """A script's line came to nothing, or it had no connection; why was said when it happened."""


async def run_session(wishes: SessionOptions, *, operator: bool) -> None:
    """Chat until the user leaves, or a signal says so.

    Raises ClientError, IdentityError, NoSuchSource, Refused and Unsent, alone or in groups.
    """
    async with trio.open_nursery() as nursery:
        # Waited for: what comes next loads modules and certificates, which takes a while.
        await nursery.start(_leave_on_signal, nursery.cancel_scope)
        await (_answer(wishes) if operator else _visit(wishes))
        nursery.cancel_scope.cancel()


async def _leave_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    hang_up = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *hang_up) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def _visit(wishes: SessionOptions) -> None:
    visit = await _identify(wishes)
    async with open_api(wishes.url, token=visit.token) as api:
        after = await first_index(api, visit.chat.uuid)
        async with (
            _open_front() as ui,
            open_room(wishes.url, visit.chat.uuid, token=visit.token, after=after) as room,
        ):
            conversation = Conversation(ui, api, room, ChatView(visit.user, visit.chat))
            await conversation.run()
        if conversation.unsent:
            raise Unsent(conversation.unsent)
        _check_script(ui, conversation.refused)


async def _identify(wishes: SessionOptions) -> Visit:
    source = wishes.source or DEFAULT_SOURCE
    if wishes.token is not None:
        async with open_api(wishes.url, token=wishes.token) as api:
            return await _visit_source(api, source)
    remembered = wishes.memory.recall(wishes.url, source)
    visit = None if remembered is None else await _return(wishes, source, remembered)
    if visit is None:
        async with open_api(wishes.url) as api:
            visit = await _visit_source(api, source)
    wishes.memory.keep(wishes.url, source, visit.token)
    return visit


async def _visit_source(api: Api, source: str) -> Visit:
    try:
        return await api.visit(source)
    except ApiError as error:
        if error.code != "not_found":
            raise
        raise NoSuchSource(error.detail) from None


async def _return(wishes: SessionOptions, source: str, token: str) -> Visit | None:
    async with open_api(wishes.url, token=token) as api:
        try:
            return await _visit_source(api, source)
        except ApiError as error:
            if error.status != 401:
                raise
            # The remembered visitor is expired, or the server is another one by now.
            return None


async def _answer(wishes: SessionOptions) -> None:
    if wishes.token is not None:
        token, sources = wishes.token, () if wishes.source is None else (wishes.source,)
    else:
        source = wishes.source or DEFAULT_SOURCE
        token = make_operator_token(wishes.data or Path(), wishes.user_id, wishes.name, source)
        sources = (source,)
    me = user_of(token)
    if me.role is not Role.OPERATOR:
        raise IdentityError("--token is a visitor's: --operator needs an operator's")
    if not names_sources(token):
        raise IdentityError(
            "--token names no widget source, so it shows no chats; make one that does: "
            f"actorchat token --role operator --user-id {me.id} --source {wishes.source or DEFAULT_SOURCE}"
        )
    async with (
        open_api(wishes.url, token=token) as api,
        _open_front() as ui,
        open_feed(wishes.url, token=token, sources=sources) as feed,
    ):
        chat_list = ChatListSession(ui, api, feed, me, wishes.url, token, sources[0] if sources else None)
        try:
            await chat_list.run()
        except NoSuchChat as error:
            raise NoSuchSource(error.detail) from None
    _check_script(ui, chat_list.refused)


def _check_script(ui: TerminalUi, refused: int) -> None:
    # Who has a screen saw what was refused, and did what there was to do.
    if refused and ui.scripted:
        raise Refused("a line came to nothing" if refused == 1 else f"{refused} lines came to nothing")


@asynccontextmanager
async def _open_front() -> AsyncIterator[TerminalUi]:
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        yield LineUi()
        return
    # Imported here: scripts do without a screen, and it takes a while.
    from actorchat.cli.terminal.screen_ui import open_screen

    async with open_screen() as screen:
        yield screen

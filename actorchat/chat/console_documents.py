"""Reads and changes the documents of widgets and consoles: configurations, saved replies and settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final
from uuid import UUID, uuid4

import attrs
import msgspec
import trio

from actorchat.chat.documents import DocumentKey, DocumentKind
from actorchat.chat.file_rules import FileRules
from actorchat.chat.ports import OperatorRecord
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.protocol import FileLimits, SavedReply, TeamMember, WidgetConfig, WidgetInfo

__all__ = ["ConsoleDocuments"]

INFO_SECONDS: Final = 30.0
"""How long the answer for a widget is kept, because anybody may ask for it."""

AWAY_SECONDS: Final = 2.0
"""The same while nobody is online: an operator who has just signed in is soon seen by visitors."""

_MOST_INFOS: Final = 1_000
_MOST_REPLIES: Final = 500
"""Saved replies of one source or operator."""

_MAX_SETTINGS: Final = 16_384
_MOST_MEMBERS: Final = 5

JsonObject = Mapping[str, Any]  # settings are JSON of every shape


class ConsoleDocuments:
    """The documents of one server. The methods raise `ChatRefused` and `StorageUnavailable`, and check no rights.

    `text_length` is the largest length of a message.
    """

    def __init__(self, chats: ChatService, files: FileRules, text_length: int) -> None:
        self._chats = chats
        self._files = files
        self._text_length = text_length
        self._infos: dict[str, tuple[float, WidgetInfo]] = {}

    # Widgets

    async def widget(self, source: str) -> WidgetInfo:
        """Return the data that the widget of `source` shows, up to `INFO_SECONDS` old.

        It is up to `AWAY_SECONDS` old while nobody is online.
        """
        now = trio.current_time()
        made, info = self._infos.get(source, (0.0, None))
        if info is not None and now - made < (INFO_SECONDS if info.online else AWAY_SECONDS):
            await trio.lowlevel.checkpoint()
            return info
        stored = await self._chats.chat_reader.documents(DocumentKind.WIDGET, source)
        config = msgspec.json.decode(stored[0][1], type=WidgetConfig) if stored else WidgetConfig()
        info = self._info(source, config, await self._chats.chat_reader.operators((source,)))
        self._infos.pop(source, None)
        self._infos[source] = (now, info)
        while len(self._infos) > _MOST_INFOS:
            del self._infos[next(iter(self._infos))]
        return info

    async def set_widget(self, source: str, config: WidgetConfig) -> WidgetInfo:
        """Store the configuration of the widget of `source`, and return what the widget shows now."""
        text = msgspec.json.encode(config).decode()
        await self._chats.change_document(DocumentKey(DocumentKind.WIDGET, source), lambda _: text)
        self._infos.pop(source, None)
        return await self.widget(source)

    def forget_widget(self, source: str | None) -> None:
        """Read the configuration of the widget of `source` again when it is asked for; None: of all sources."""
        if source is None:
            self._infos.clear()
        else:
            self._infos.pop(source, None)

    def _info(self, source: str, config: WidgetConfig, operators: Collection[OperatorRecord]) -> WidgetInfo:
        present = sorted(operators, key=lambda each: (not each.person.online, each.person.user.id))
        team = tuple(
            TeamMember(
                f"{each.person.user.firstname} {each.person.user.lastname}".strip(),
                each.person.user.avatar,
                each.person.online,
            )
            for each in present
        )
        rule = self._files.of(source)
        return WidgetInfo(
            source=source,
            config=config,
            online=any(member.online for member in team),
            team=tuple(member for member in team if member.name)[:_MOST_MEMBERS],
            text_length=self._text_length,
            files=FileLimits(rule.size, rule.per_message, tuple(sorted(rule.types))),
        )

    # Saved replies

    async def replies(self, operator_id: int, sources: Collection[str]) -> tuple[SavedReply, ...]:
        """The replies of `sources` and the personal ones of the operator, by title."""
        found: list[SavedReply] = []
        for scope in (_personal(operator_id), *sorted(sources)):
            texts = await self._chats.chat_reader.documents(DocumentKind.REPLY, scope)
            found += [_reply_of(text) for _, text in texts]
        return tuple(sorted(found, key=lambda reply: (reply.title.casefold(), str(reply.id))))

    async def reply(self, reply_id: UUID, operator_id: int, sources: Collection[str]) -> SavedReply:
        """The reply with that id, if it is one that `replies` returns; `ChatRefused` with `not_found` otherwise."""
        for reply in await self.replies(operator_id, sources):
            if reply.id == reply_id:
                return reply
        raise ChatRefused("not_found", "there is no such saved reply")

    async def add_reply(
        self, operator_id: int, *, source: str | None, title: str, text: str, shortcut: str
    ) -> SavedReply:
        """Store a reply of `source`, or a personal one of the operator."""
        reply = SavedReply(uuid4(), source, title, text, shortcut)
        key = _reply_key(reply, operator_id)
        if len(await self._chats.chat_reader.documents(DocumentKind.REPLY, key.scope)) >= _MOST_REPLIES:
            raise ChatRefused("conflict", f"there are {_MOST_REPLIES} saved replies already, which is the limit")
        stored = msgspec.json.encode(reply).decode()
        await self._chats.change_document(key, lambda _: stored)
        return reply

    async def change_reply(self, operator_id: int, reply: SavedReply, changes: JsonObject) -> SavedReply:
        """Change fields of `reply` as it is stored now; `ChatRefused` with `not_found` if it was deleted meanwhile."""

        def changed(stored: str | None) -> str | None:
            if stored is None:
                return None
            return msgspec.json.encode(attrs.evolve(_reply_of(stored), **changes)).decode()

        text = await self._chats.change_document(_reply_key(reply, operator_id), changed)
        if text is None:
            raise ChatRefused("not_found", "there is no such saved reply")
        return _reply_of(text)

    async def delete_reply(self, operator_id: int, reply: SavedReply) -> None:
        await self._chats.change_document(_reply_key(reply, operator_id), lambda _: None)

    # Settings

    async def settings(self, operator_id: int) -> JsonObject:
        """The console settings of an operator: a JSON object that only the console understands."""
        found = await self._chats.chat_reader.documents(DocumentKind.SETTINGS, str(operator_id))
        return _object(found[0][1] if found else None)

    async def change_settings(self, operator_id: int, changes: JsonObject) -> JsonObject:
        """Change the settings named in `changes`; null removes one. Returns all of them."""
        try:
            size = len(msgspec.json.encode(changes))
        except (ValueError, OverflowError, RecursionError, TypeError) as error:
            raise ChatRefused("malformed", f"these settings can't be stored as JSON: {error}") from None
        if size > _MAX_SETTINGS:
            raise _too_many_settings()

        def changed(stored: str | None) -> str | None:
            merged = {**_object(stored), **changes}
            text = msgspec.json.encode({name: value for name, value in merged.items() if value is not None}).decode()
            return stored if len(text) > _MAX_SETTINGS else text

        text = await self._chats.change_document(DocumentKey(DocumentKind.SETTINGS, str(operator_id)), changed)
        after = _object(text)
        if any(after.get(name) != value for name, value in changes.items()):
            raise _too_many_settings()
        return after


def _too_many_settings() -> ChatRefused:
    return ChatRefused("too_long", f"the settings of one operator may have at most {_MAX_SETTINGS} characters")


def _personal(operator_id: int) -> str:
    # No source has such a name.
    return f"@{operator_id}"


def _reply_key(reply: SavedReply, operator_id: int) -> DocumentKey:
    return DocumentKey(DocumentKind.REPLY, reply.source or _personal(operator_id), reply.id.hex)


def _reply_of(text: str) -> SavedReply:
    return msgspec.json.decode(text, type=SavedReply)


def _object(text: str | None) -> dict[str, Any]:
    return {} if text is None else msgspec.json.decode(text, type=dict[str, Any])

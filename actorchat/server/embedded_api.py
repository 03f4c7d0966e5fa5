"""Offers the operations of the HTTP API to code in the server's own process, without HTTP and without tokens."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Collection, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from actorchat.chat.accounts import Rights
from actorchat.chat.blocks import Block as StoredBlock
from actorchat.chat.console_documents import ConsoleDocuments
from actorchat.chat.links import attachments_for
from actorchat.chat.model import ChatState, Stage, StoredMessage, identity_of, wire_message
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    EditMessage,
    RedactMessage,
    ReopenChat,
    ReturnChat,
    SetTags,
    TransferChat,
    changed_message,
)
from actorchat.chat.ports import ChatFilter, Page
from actorchat.chat.search import Search, SearchFilter, SearchKind
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.client.api import Block, ChatPage, HistoryPage, MessageEdit, MessagesFound, PeopleFound, SummaryPage
from actorchat.http.blocks import SEE_AND_CHANGE, BlockBody, BlockList, add_block, block_answer
from actorchat.http.console import CHANGE_SHARED_REPLIES, CHANGE_WIDGET, ReplyBody, ReplyChangeBody
from actorchat.http.cursors import cursor_of, place_of
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import Problem
from actorchat.http.requests import MAX_LIMIT, check_tags
from actorchat.http.searching import list_chats, search_filter, search_of
from actorchat.http.transcripts import TranscriptFormat, transcript_parts
from actorchat.protocol import (
    MAX_SAFE_INTEGER,
    Attachment,
    Chat,
    ChatStatus,
    Malformed,
    Message,
    MessageType,
    Operator,
    Role,
    SavedReply,
    User,
    VisitorInfo,
    WidgetConfig,
    WidgetInfo,
    structure,
    wire_time,
)
from actorchat.server.accounts import Accounts
from actorchat.server.attachments import Attachments
from actorchat.server.auth import FIRST_ANONYMOUS_ID, is_storable

__all__ = ["LocalApi"]

T = TypeVar("T")


class LocalApi:
    """The methods of `actorchat.client.Api`, called in-process with the rights of one user.

    Made by `Server.api_for`. Usable from any task of the server's Trio program while the server runs. Every method
    raises `ChatRefused` with the codes of the HTTP API, and `StorageUnavailable`. A call that is cancelled while it
    waits for storage may still take effect.
    """

    def __init__(
        self,
        chats: ChatService,
        access: Access,
        attachments: Attachments,
        documents: ConsoleDocuments,
        blocks: BlockList,
        accounts: Accounts,
        user: User,
        sources: Collection[str],
        rights: Rights,
    ) -> None:
        self._documents = documents
        self._blocks = blocks
        self._accounts = accounts
        self._attachments = attachments
        self._chats = chats
        self._access = access
        self._caller = Caller(user, frozenset(sources), inf, rights=rights, by_token=False)

    @property
    def user(self) -> User:
        """The user whose rights apply, as stored when this object was made."""
        return self._caller.user

    async def chats(
        self, *, status: ChatStatus | None = None, source: str | None = None, limit: int = 50
    ) -> tuple[Chat, ...]:
        """Return the chats that this user may see, latest activity first, at most `limit`."""
        return (await self.chat_page(status=status, source=source, limit=limit)).chats

    async def chat_page(
        self,
        *,
        status: ChatStatus | None = None,
        source: str | None = None,
        owner: int | None = None,
        name: str | None = None,
        tag: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ChatPage:
        """Return one page of the chats that this user may see. `cursor` is the `next` of the previous page.

        `owner` is the id of a visitor; `name` has words of visitors' names. Only operators may ask for a `name` or a
        `tag`. If over 1,000 visitors have such a name, a page may be short, or empty, and still have a `next`.
        Raises ValueError for a text that is not a cursor.
        """
        chats, next_cursor = await self._page(status, source, owner, name, tag, limit, cursor)
        return ChatPage(tuple(chat.wire() for chat in chats), next_cursor)

    async def summary_page(
        self,
        *,
        status: ChatStatus | None = None,
        source: str | None = None,
        owner: int | None = None,
        name: str | None = None,
        tag: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SummaryPage:
        """Like `chat_page`, with what a list shows of each chat, for operators."""
        self._require_operator("see summaries")
        chats, next_cursor = await self._page(status, source, owner, name, tag, limit, cursor)
        return SummaryPage(await self._chats.summaries.read([chat.uuid for chat in chats]), next_cursor)

    async def _page(
        self,
        status: ChatStatus | None,
        source: str | None,
        owner: int | None,
        name: str | None,
        tag: str | None,
        limit: int,
        cursor: str | None,
    ) -> tuple[tuple[ChatState, ...], str | None]:
        if self._caller.is_operator:
            sources: frozenset[str] | None = self._sources(() if source is None else (source,))
        else:
            sources = None if source is None else frozenset({source})
            if owner not in (None, self.user.id):
                raise ChatRefused("not_allowed", "visitors see only their own chats")
            owner = self.user.id
        if tag is not None:
            self._require_operator("see tags")
        which = ChatFilter(
            sources=sources,
            stages=None if status is None else frozenset({Stage(status.value)}),
            owner_id=owner,
            tag=tag,
            before=None if cursor is None else place_of(cursor),
            limit=limit,
        )
        page = await _allowed(list_chats(self._access, self._chats, self._caller, which, name, sources or ()))
        return page.chats, None if page.next is None else cursor_of(page.next)

    async def take_over(self, anonymous: int) -> None:
        """Make the chats of an anonymous visitor, who is named by id, those of this visitor, who is the same person.

        The anonymous visitor's tokens become worthless, and its sockets are closed. Calling it again changes nothing.
        """
        if self._caller.is_operator or not self.user.id < FIRST_ANONYMOUS_ID <= anonymous:
            raise ChatRefused(
                "not_allowed", "chats of anonymous visitors are handed over to visitors who have signed in"
            )
        await self._accounts.hand_over(anonymous, self._caller)

    async def set_tags(self, chat: UUID, tags: Collection[str]) -> tuple[str, ...]:
        """Give the chat exactly these tags, and return them sorted. For operators."""
        self._require_operator("set tags")
        await _allowed(self._access.chat(self._caller, chat))
        try:
            checked = check_tags(tags)
        except Problem as problem:
            raise ChatRefused(problem.code, problem.detail) from None
        await self._chats.perform(SetTags(chat, checked))
        return checked

    async def chat(self, chat: UUID) -> Chat:
        """Return one chat."""
        return (await _allowed(self._access.chat(self._caller, chat))).wire()

    async def history(
        self, chat: UUID, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> HistoryPage:
        """Return one page of messages in ascending order, the newest page by default.

        `before` and `after` are exclusive message indexes. Raises ValueError if both are given.
        """
        if before is not None and after is not None:
            raise ValueError("give before or after, not both")
        await _allowed(self._access.chat(self._caller, chat))
        role, chat_reader = self.user.role, self._chats.chat_reader
        if after is None:
            page = await chat_reader.newest(chat, role, before=before, limit=limit)
        else:
            page = await chat_reader.after(chat, role, after=after, limit=limit)
        if page is None:
            raise ChatRefused("not_found", "there is no such chat")
        messages = tuple(self._wire(page.chat, message) for message in page.messages)
        return HistoryPage(
            messages=messages,
            from_index=messages[0].message_index if messages else None,
            to_index=messages[-1].message_index if messages else None,
            has_more=page.has_more,
            edits=tuple(
                MessageEdit(each.index, wire_time(each.edited_at), each.redacted)
                for each in page.messages
                if each.edited_at is not None
            ),
        )

    async def add_message(
        self,
        chat: UUID,
        text: str,
        attachments: Sequence[UUID] = (),
        *,
        type: MessageType = MessageType.STANDARD,
        type_role: Role | None = None,
        client_id: str | None = None,
    ) -> Message:
        """Store a message and return it. A repeated `client_id` returns the message that is already stored.

        A system message needs `type_role`, the role of its recipients. Raises ValueError without one.
        """
        if type is MessageType.SYSTEM:
            self._require_operator("send system messages")
            if type_role is None:
                raise ValueError("a system message needs type_role: the role of its recipients")
        if not is_storable(text) or not is_storable(client_id or ""):
            raise ChatRefused("malformed", "text and client_id must not contain NUL or a lone surrogate")
        await _allowed(self._access.chat(self._caller, chat))
        decision = await self._chats.perform(
            AddMessage(
                chat=chat,
                author=self.user,
                text=text,
                attachments=tuple(attachments),
                client_id=client_id,
                type=type,
                type_role=type_role or self.user.role,
            )
        )
        message = decision.messages[0] if isinstance(decision, Changed) else decision.message
        assert message is not None  # noqa: S101 - the outcome of a message is a message
        return self._wire(decision.chat, message)

    async def edit(self, message_id: int, text: str) -> Message:
        """Replace the text of a message of this user and return it. Its files stay.

        Raises ChatRefused with `too_late` if the message is older than `ChatSettings.edit_within`.
        """
        if not is_storable(text):
            raise ChatRefused("malformed", "text must not contain NUL or a lone surrogate")
        chat = await self._chat_of(message_id)
        return await self._change(EditMessage(chat.uuid, self.user, message_id, text))

    async def redact(self, message_id: int) -> Message:
        """Remove the text and the files of a message and return what is left of it.

        Users may remove their own messages, for a while.
        """
        chat = await self._chat_of(message_id)
        moderates = self._access.moderates(self._caller, chat)
        return await self._change(RedactMessage(chat.uuid, self.user, message_id, moderates))

    async def transcript(self, chat: UUID, format: str = "text") -> str:
        """Return the whole chat as `text`, `json` or `html`, with what this user may see of it.

        Raises ValueError for another format.
        """
        form = TranscriptFormat(format)
        state = await _allowed(self._access.chat(self._caller, chat))

        async def read(after: int) -> Page | None:
            return await self._chats.chat_reader.after(chat, self.user.role, after=after, limit=MAX_LIMIT)

        return "".join([part async for part in transcript_parts(state, form, await read(-1), read, self._wire)])

    async def search_messages(
        self,
        text: str,
        *,
        files: bool = False,
        source: str | None = None,
        chat: UUID | None = None,
        limit: int = 50,
        cursor: int | None = None,
    ) -> MessagesFound:
        """Find messages that have all words of `text`, or with `files` those whose files' names have them.

        The newest come first. `cursor` is the `next` of the previous page.
        """
        kind = SearchKind.FILES if files else SearchKind.MESSAGES
        which = await self._filter(text, kind, source, chat, limit, cursor)
        found = await _searched(self._chats).messages(which)
        return MessagesFound(tuple(self._wire(state, message) for state, message in found.messages), found.next)

    async def search_people(
        self, text: str, *, source: str | None = None, limit: int = 50, cursor: int | None = None
    ) -> PeopleFound:
        """Find operators and owners of chats whose names and id have all words of `text`. For operators."""
        which = await self._filter(text, SearchKind.PEOPLE, source, None, limit, cursor)
        found = await _searched(self._chats).people(which)
        return PeopleFound(found.people, found.next)

    async def _filter(
        self, text: str, kind: SearchKind, source: str | None, chat: UUID | None, limit: int, cursor: int | None
    ) -> SearchFilter:
        sources = () if source is None else (source,)
        return await _allowed(
            search_filter(
                self._access,
                self._chats,
                self._caller,
                text,
                kind,
                sources=sources,
                chat=chat,
                before=cursor,
                limit=limit,
            )
        )

    async def upload(self, content: bytes | AsyncIterable[bytes], filename: str) -> Attachment:
        """Store a file, for one message of this user. Pass the content at once, or iterate over its parts.

        The file is deleted if no message uses it within `AttachmentSettings.unused_timeout`. Rate limits don't apply.
        Raises ChatRefused with `too_large` or `attachment_rejected` if the configured limits don't allow the file.
        """
        try:
            async with self._attachments.receive(self._caller, None) as incoming:
                if isinstance(content, bytes):
                    await incoming.write(content)
                else:
                    async for part in content:
                        await incoming.write(part)
                return await incoming.finish(filename)
        except Problem as problem:
            raise ChatRefused(problem.code, problem.detail, problem.retry_after) from None

    async def download(self, attachment: Attachment, *, preview: bool = False) -> bytes:
        """Return the content of a file, or of its preview. `attachment` is from a message that this user has received.

        Raises ChatRefused if the link in `attachment` has expired.
        """
        url = attachment.url_preview if preview else attachment.url
        ticket = urlsplit(url).query.removeprefix("ticket=")
        answer = await _allowed(
            self._attachments.open(attachment.uuid, ticket, identity_of(self.user), preview=preview)
        )
        return await _allowed(answer.read(0, answer.size))

    async def add_note(self, chat: UUID, text: str) -> Message:
        """Store an internal note: a system message that only operators see."""
        return await self.add_message(chat, text, type=MessageType.SYSTEM, type_role=Role.OPERATOR)

    async def accept(self, chat: UUID) -> Chat:
        """Accept a new chat. If two operators accept it at once, one of them gets `not_owner`."""
        self._require_operator("accept chats")
        return await self._transition(AcceptChat(chat, self.user))

    async def close(self, chat: UUID) -> Chat:
        """Close the chat."""
        return await self._transition(CloseChat(chat, self.user))

    async def reopen(self, chat: UUID) -> Chat:
        """Reopen a closed chat."""
        return await self._transition(ReopenChat(chat, self.user))

    async def transfer(self, chat: UUID, operator_id: int) -> Chat:
        """Transfer the chat to an operator, possibly to this one."""
        self._require_operator("transfer chats")
        return await self._transition(TransferChat(chat, self.user, operator_id))

    async def return_to_queue(self, chat: UUID) -> Chat:
        """Return the chat to the queue: it becomes `new` and unassigned."""
        self._require_operator("return chats")
        return await self._transition(ReturnChat(chat, self.user))

    async def operators(self) -> tuple[Operator, ...]:
        """Return the operators of this operator's sources."""
        self._require_operator("see operators")
        records = await self._chats.chat_reader.operators(self._sources(()))
        return tuple(record.wire() for record in records)

    async def _chat_of(self, message_id: int) -> ChatState:
        located = await self._chats.chat_reader.located(message_id) if 0 <= message_id <= MAX_SAFE_INTEGER else None
        if located is not None:
            with suppress(Problem):
                return await self._access.chat(self._caller, located[0])
        raise ChatRefused("not_found", "there is no such message")

    async def _change(self, operation: EditMessage | RedactMessage) -> Message:
        decision = await self._chats.perform(operation)
        return self._wire(decision.chat, changed_message(decision))

    async def widget(self, source: str) -> WidgetInfo:
        """Return what the widget of a source shows; up to 30 seconds old."""
        try:
            self._access.check_source(source)
        except Problem as problem:
            raise ChatRefused(problem.code, problem.detail) from None
        return await self._documents.widget(source)

    async def set_widget(self, source: str, config: WidgetConfig) -> WidgetInfo:
        """Store the configuration of a source's widget, and return what the widget shows now. For administrators.

        Raises ChatRefused with `malformed` for a value that is not allowed.
        """
        self._sources((source,))
        self._require(Rights.ADMIN, CHANGE_WIDGET)
        try:
            checked = structure(msgspec.json.decode(msgspec.json.encode(config)), WidgetConfig)
        except Malformed as error:
            raise ChatRefused(error.code, error.detail) from None
        return await self._documents.set_widget(source, checked)

    async def replies(self) -> tuple[SavedReply, ...]:
        """Return the saved replies of this operator's sources, and the personal ones, by title."""
        self._require_operator("see saved replies")
        return await self._documents.replies(self.user.id, self._sources(()))

    async def add_reply(self, title: str, text: str, *, shortcut: str = "", source: str | None = None) -> SavedReply:
        """Save a reply for all operators of `source`, which is for supervisors, or a personal one."""
        self._require_operator("save replies")
        if source is not None:
            self._require_shared(source)
        try:
            structure({"title": title, "text": text, "shortcut": shortcut}, ReplyBody)
        except Malformed as error:
            raise ChatRefused(error.code, error.detail) from None
        return await self._documents.add_reply(self.user.id, source=source, title=title, text=text, shortcut=shortcut)

    async def change_reply(
        self, reply: UUID, *, title: str | None = None, text: str | None = None, shortcut: str | None = None
    ) -> SavedReply:
        """Change the fields of a saved reply that are given, and return it."""
        self._require_operator("save replies")
        fields = {"title": title, "text": text, "shortcut": shortcut}
        try:
            structure(fields, ReplyChangeBody)
        except Malformed as error:
            raise ChatRefused(error.code, error.detail) from None
        found = await self._documents.reply(reply, self.user.id, self._sources(()))
        if found.source is not None:
            self._require_shared(found.source)
        changes = {name: value for name, value in fields.items() if value is not None}
        return await self._documents.change_reply(self.user.id, found, changes)

    async def delete_reply(self, reply: UUID) -> None:
        """Delete a saved reply."""
        self._require_operator("delete replies")
        found = await self._documents.reply(reply, self.user.id, self._sources(()))
        if found.source is not None:
            self._require_shared(found.source)
        await self._documents.delete_reply(self.user.id, found)

    async def visitor(self, chat: UUID) -> VisitorInfo:
        """Return what is known about the owner of a chat, for operators. Supervisors also see the network address."""
        self._require_operator("see visitors")
        state = await _allowed(self._access.chat(self._caller, chat))
        return await self._chats.visits.owner_of(state, with_address=self._access.moderates(self._caller, state))

    async def blocks(self) -> tuple[Block, ...]:
        """Return the blocks, the newest first. For supervisors."""
        self._require(Rights.SUPERVISOR, SEE_AND_CHANGE)
        return tuple(map(_block, self._blocks.all()))

    async def block(
        self, *, user: int | None = None, address: str | None = None, reason: str = "", seconds: float | None = None
    ) -> Block:
        """Block the visitor with the id `user`, or an address or network, for `seconds` or for ever.

        Their sockets are closed. If they are blocked already, that block gets the reason and the end. For supervisors,
        who may block the visitors of their own sources; administrators may block all.
        """
        self._require(Rights.SUPERVISOR, SEE_AND_CHANGE)
        try:
            body = structure({"user": user, "address": address, "reason": reason, "seconds": seconds}, BlockBody)
        except Malformed as error:
            raise ChatRefused(error.code, error.detail) from None
        return _block(await _allowed(add_block(self._blocks, self._caller, body)))

    async def unblock(self, block_id: int) -> None:
        """Remove a block. For supervisors."""
        self._require(Rights.SUPERVISOR, SEE_AND_CHANGE)
        await self._blocks.remove(block_id)

    async def settings(self) -> Mapping[str, object]:
        """Return this operator's settings of the console."""
        self._require_operator("have settings")
        return await self._documents.settings(self.user.id)

    async def change_settings(self, changes: Mapping[str, object]) -> Mapping[str, object]:
        """Change settings of the console, and return all of them. None removes one."""
        self._require_operator("have settings")
        return await self._documents.change_settings(self.user.id, changes)

    def _wire(self, chat: ChatState, message: StoredMessage) -> Message:
        files = attachments_for(message.attachments, identity_of(self.user), self._chats.links)
        return wire_message(chat, message, files)

    def _require_operator(self, action: str) -> None:
        if not self._caller.is_operator:
            raise ChatRefused("not_allowed", f"only operators can {action}")

    def _require(self, rights: Rights, action: str) -> None:
        try:
            self._access.require(self._caller, rights, action)
        except Problem as problem:
            raise ChatRefused(problem.code, problem.detail) from None

    def _require_shared(self, source: str) -> None:
        self._sources((source,))
        self._require(Rights.SUPERVISOR, CHANGE_SHARED_REPLIES)

    def _sources(self, requested: Collection[str]) -> frozenset[str]:
        try:
            return self._access.sources(self._caller, requested)
        except Problem as problem:
            raise ChatRefused(problem.code, problem.detail) from None

    async def _transition(self, operation: ChatOperation) -> Chat:
        await _allowed(self._access.chat(self._caller, operation.chat))
        return (await self._chats.perform(operation)).chat.wire()


def _block(block: StoredBlock) -> Block:
    answer = block_answer(block)
    return Block(
        id=answer.id,
        user=answer.user,
        address=answer.address,
        reason=answer.reason,
        by=answer.by,
        created=answer.created,
        until=answer.until,
    )


def _searched(chats: ChatService) -> Search:
    try:
        return search_of(chats)
    except Problem as problem:
        raise ChatRefused(problem.code, problem.detail, problem.retry_after) from None


async def _allowed(answer: Awaitable[T]) -> T:
    """Await a check of the access control, and raise its Problem as ChatRefused."""
    try:
        return await answer
    except Problem as problem:
        raise ChatRefused(problem.code, problem.detail, problem.retry_after) from None

"""Offers the operations of the HTTP API to code in the server's own process, without HTTP and without tokens."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Collection, Sequence
from math import inf
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from actorchat.chat.links import attachments_for
from actorchat.chat.model import ChatState, Stage, StoredMessage, identity_of, wire_message
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    ReopenChat,
    ReturnChat,
    TransferChat,
)
from actorchat.chat.ports import ChatFilter
from actorchat.chat.service import ChatRefused, ChatService
from actorchat.client.api import ChatPage, HistoryPage
from actorchat.http.cursors import cursor_of, place_of
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import Problem
from actorchat.protocol import Attachment, Chat, ChatStatus, Message, MessageType, Operator, Role, User
from actorchat.server.attachments import Attachments
from actorchat.server.auth import is_storable

__all__ = ["LocalApi"]

T = TypeVar("T")


class LocalApi:
    """The methods of `actorchat.client.Api`, called in-process with the rights of one user.

    Made by `Server.api_for`. Usable from any task of the server's Trio program while the server runs. Every method
    raises `ChatRefused` with the codes of the HTTP API, and `StorageUnavailable`. A call that is cancelled while it
    waits for storage may still take effect.
    """

    def __init__(
        self, chats: ChatService, access: Access, attachments: Attachments, user: User, sources: Collection[str]
    ) -> None:
        self._attachments = attachments
        self._chats = chats
        self._access = access
        self._caller = Caller(user, frozenset(sources), inf)

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
        limit: int = 50,
        cursor: str | None = None,
    ) -> ChatPage:
        """Return one page of the chats that this user may see. `cursor` is the `next` of the previous page.

        Raises ValueError for a text that is not a cursor.
        """
        operator = self._caller.is_operator
        if operator:
            sources: frozenset[str] | None = self._sources(() if source is None else (source,))
        else:
            sources = None if source is None else frozenset({source})
        which = ChatFilter(
            sources=sources,
            stages=None if status is None else frozenset({Stage(status.value)}),
            owner_id=None if operator else self.user.id,
            before=None if cursor is None else place_of(cursor),
            limit=limit,
        )
        page = await self._chats.chat_reader.chats(which)
        next_cursor = None if page.next is None else cursor_of(page.next)
        return ChatPage(tuple(chat.wire() for chat in page.chats), next_cursor)

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

    async def upload(self, content: bytes | AsyncIterable[bytes], filename: str) -> Attachment:
        """Store a file, for one message of this user. Pass the content at once, or iterate over its parts.

        The file is deleted if no message uses it within `AttachmentSettings.unused_timeout`. Rate limits don't apply.
        Raises ChatRefused with `too_large` or `attachment_rejected` if the configured limits don't allow the file.
        """
        try:
            async with self._attachments.receive(self._caller, None) as incoming:
                if isinstance(content, bytes):
                    fits = await incoming.write(content)
                else:
                    fits = True
                    async for part in content:
                        fits = fits and await incoming.write(part)
                if not fits:
                    raise ChatRefused("too_large", f"a file may have at most {self._attachments.max_bytes} bytes")
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

    def _wire(self, chat: ChatState, message: StoredMessage) -> Message:
        files = attachments_for(message.attachments, identity_of(self.user), self._chats.links)
        return wire_message(chat, message, files)

    def _require_operator(self, action: str) -> None:
        if not self._caller.is_operator:
            raise ChatRefused("not_allowed", f"only operators can {action}")

    def _sources(self, requested: Collection[str]) -> frozenset[str]:
        try:
            return self._access.sources(self._caller, requested)
        except Problem as problem:
            raise ChatRefused(problem.code, problem.detail) from None

    async def _transition(self, operation: ChatOperation) -> Chat:
        await _allowed(self._access.chat(self._caller, operation.chat))
        return (await self._chats.perform(operation)).chat.wire()


async def _allowed(answer: Awaitable[T]) -> T:
    """Await a check of the access control, and raise its Problem as ChatRefused."""
    try:
        return await answer
    except Problem as problem:
        raise ChatRefused(problem.code, problem.detail, problem.retry_after) from None

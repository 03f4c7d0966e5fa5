"""Owns the HTTP side of a server: the calls a chat client needs beside its sockets.

Refuses to know sockets, and what the answers are used for.
"""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import attrs
import msgspec

from actorchat.client.errors import ApiError, ApiUnreachable
from actorchat.client.failure_messages import explain_failure, read_fault
from actorchat.client.server_urls import ServerAddress
from actorchat.client.websocket import tls_context
from actorchat.protocol.entities import Chat, ChatStatus, Message, MessageType, Operator, Role, User

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

ANSWER_SECONDS: Final = 15.0
"""A call without an answer for this long is given up."""


@attrs.frozen
class Visit:
    """Who a visitor is, the token that says so, and the chat that is theirs."""

    token: str
    user: User
    chat: Chat


@attrs.frozen
class ChatPage:
    """A page of a list of chats. ``next`` is the cursor of the page that follows, None if this is the last one."""

    chats: tuple[Chat, ...]
    next: str | None


@attrs.frozen
class HistoryPage:
    """Messages in ascending order; the indexes are those of the first and last, None if there are none.

    ``has_more`` says whether there are others further on in the direction that was asked for.
    """

    messages: tuple[Message, ...]
    from_index: int | None
    to_index: int | None
    has_more: bool


@asynccontextmanager
async def open_api(url: str, *, token: str | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator["Api"]:
    """Open the HTTP side of the server at ``url``, as whom ``token`` says; leaving closes its connections.

    Raises ValueError for an address that is none.
    """
    # Imported here: it takes a tenth of a second, and who only opens rooms does without.
    import httpx

    server = ServerAddress.parse(url)
    context = tls_context(server, tls)
    async with httpx.AsyncClient(
        base_url=server.origin,
        headers={} if token is None else {"Authorization": f"Bearer {token}"},
        timeout=ANSWER_SECONDS,
        verify=context or False,
        trust_env=False,
    ) as http:
        yield Api(http)


class Api:
    """Calls to one server as one identity; made by `open_api`, usable from any task.

    Every call raises ApiError when the server refuses it and ApiUnreachable when no usable answer came;
    in the latter case it may have been carried out. Nothing is tried again by itself.
    """

    def __init__(self, http: "httpx.AsyncClient") -> None:
        self._http = http

    async def visit(self, source: str) -> Visit:
        """Become an anonymous visitor of a source with a chat; with a visitor's token renew it, same chat."""
        return await self._call(Visit, "POST", "/api/visitors", body={"source": source})

    async def chats(
        self, *, status: ChatStatus | None = None, source: str | None = None, limit: int = 50
    ) -> tuple[Chat, ...]:
        """Chats this identity may see, newest activity first, at most ``limit``."""
        return (await self.chat_page(status=status, source=source, limit=limit)).chats

    async def chat_page(
        self,
        *,
        status: ChatStatus | None = None,
        source: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ChatPage:
        """A page of the chats this identity may see; ``cursor`` is the ``next`` of the page before.

        A walk from page to page with the same filters shows every chat that was there throughout exactly once, in the
        order that the list had when the walk began.
        """
        query = {"limit": str(limit)}
        if status is not None:
            query["status"] = status.value
        if source is not None:
            query["source"] = source
        if cursor is not None:
            query["before"] = cursor
        answer = await self._request("GET", "/api/chats", query=query)
        following = answer.links.get("next", {}).get("url")
        # Only the cursor is taken from the link: a proxy may have put the server under another path.
        cursors = parse_qs(urlsplit(following).query).get("before", []) if following else []
        return ChatPage(_decoded(tuple[Chat, ...], answer), cursors[0] if cursors else None)

    async def chat(self, chat: UUID) -> Chat:
        """One chat as it is now."""
        return await self._call(Chat, "GET", f"/api/chats/{chat}")

    async def history(
        self, chat: UUID, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> HistoryPage:
        """A page of messages before or after an index (exclusive, one at most); neither: the newest."""
        query = {"limit": str(limit)}
        if before is not None:
            query["before"] = str(before)
        if after is not None:
            query["after"] = str(after)
        return await self._call(HistoryPage, "GET", f"/api/chats/{chat}/messages", query=query)

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
        """Store a message; a call repeated with the same ``client_id`` stores it once."""
        body: dict[str, object] = {
            "text": text,
            "attachments": [str(attachment) for attachment in attachments],
            "type": type.value,
            "client_id": client_id or uuid4().hex,
        }
        if type_role is not None:
            body["type_role"] = type_role.value
        return await self._call(Message, "POST", f"/api/chats/{chat}/messages", body=body)

    async def add_note(self, chat: UUID, text: str) -> Message:
        """Store an internal note: a system message that only operators see."""
        return await self.add_message(chat, text, type=MessageType.SYSTEM, type_role=Role.OPERATOR)

    async def accept(self, chat: UUID) -> Chat:
        """Take a new chat; of two who accept at once one gets ApiError ``not_owner``."""
        return await self._transition(chat, "accept")

    async def close(self, chat: UUID) -> Chat:
        """End the conversation."""
        return await self._transition(chat, "close")

    async def reopen(self, chat: UUID) -> Chat:
        """Go on with a closed conversation."""
        return await self._transition(chat, "reopen")

    async def transfer(self, chat: UUID, operator_id: int) -> Chat:
        """Give the chat to an operator, oneself included."""
        return await self._transition(chat, "transfer", {"operator_id": operator_id})

    async def return_to_queue(self, chat: UUID) -> Chat:
        """Give the chat back: new, and nobody's."""
        return await self._transition(chat, "return")

    async def operators(self) -> tuple[Operator, ...]:
        """The operators this identity may see."""
        return await self._call(tuple[Operator, ...], "GET", "/api/operators")

    async def _transition(self, chat: UUID, verb: str, body: Mapping[str, object] | None = None) -> Chat:
        return await self._call(Chat, "POST", f"/api/chats/{chat}/{verb}", body=body or {})

    async def _call(
        self,
        cls: type[T],
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> T:
        return _decoded(cls, await self._request(method, path, query=query, body=body))

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> "httpx.Response":
        import httpx

        try:
            answer = await self._http.request(method, path, params=query, json=body)
        except httpx.HTTPError as error:
            # Without a connection nothing was asked of anybody.
            asked = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            why = explain_failure(error)
            raise ApiUnreachable(f"cannot reach {self._http.base_url}: {why}", asked=asked) from error
        if not answer.is_success:
            raise _refusal(answer.status_code, answer.content)
        return answer


def _decoded(cls: type[T], answer: "httpx.Response") -> T:
    try:
        return msgspec.json.decode(answer.content, type=cls)
    except msgspec.MsgspecError as error:
        asked = answer.request
        raise ApiUnreachable(f"{asked.method} {asked.url.path}: not the answer of this API: {error}") from error


def _refusal(status: int, content: bytes) -> ApiError:
    fault = read_fault(content)
    return ApiError(status, fault.code or f"http_{status}", fault.detail, fault.path)

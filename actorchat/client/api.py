"""Calls the HTTP API of a server."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import attrs
import msgspec

from actorchat.client.errors import ApiError, ApiUnreachable
from actorchat.client.failure_messages import explain_failure, parse_error_body
from actorchat.client.server_urls import ServerAddress
from actorchat.client.websocket import tls_context
from actorchat.protocol.console import PageContext, SavedReply, VisitorInfo, WidgetConfig, WidgetInfo
from actorchat.protocol.entities import Attachment, Chat, ChatStatus, Message, MessageType, Operator, Role, User
from actorchat.protocol.events import ChatSummary

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

ANSWER_SECONDS: Final = 15.0
"""The timeout of httpx for connecting, writing, and each wait for data."""

UPLOAD_ANSWER_SECONDS: Final = 300.0
"""How long to wait for the response to an upload: the server may scan the file first."""


@attrs.frozen
class Visit:
    """A visitor, the token that identifies them, and their chat."""

    token: str
    user: User
    chat: Chat


@attrs.frozen
class ChatPage:
    """A page of a list of chats. ``next`` is the cursor of the next page, None on the last one."""

    chats: tuple[Chat, ...]
    next: str | None


@attrs.frozen
class MessagesFound:
    """A page of a search, the newest messages first. ``next`` is the cursor of the next page, None on the last one."""

    messages: tuple[Message, ...]
    next: int | None


@attrs.frozen
class PeopleFound:
    """A page of a search for people. ``next`` is the cursor of the next page, None on the last one."""

    people: tuple[User, ...]
    next: int | None


@attrs.frozen
class MessageEdit:
    """A message whose text was changed at ``edited_at``, or ``redacted``: its text and files were removed."""

    message_index: int
    edited_at: str
    redacted: bool


@attrs.frozen
class SummaryPage:
    """A page of summaries of chats. ``next`` is the cursor of the next page, None on the last one."""

    chats: tuple[ChatSummary, ...]
    next: str | None


@attrs.frozen
class HistoryPage:
    """Messages in ascending order, and the indexes of the first and the last, None if the page is empty.

    ``has_more`` says whether there are more messages in the direction of the request. ``edits`` lists the messages of
    the page that were edited or redacted.
    """

    messages: tuple[Message, ...]
    from_index: int | None
    to_index: int | None
    has_more: bool
    edits: tuple[MessageEdit, ...] = ()


@attrs.frozen
class Block:
    """A blocked visitor, or blocked network addresses in ``address``; the other one is None.

    ``by`` is the id of the operator who has blocked. ``until`` is None for a block without an end.
    """

    id: int
    user: int | None
    address: str | None
    reason: str
    by: int
    created: str
    until: str | None


@asynccontextmanager
async def open_api(url: str, *, token: str | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator["Api"]:
    """Open an HTTP client for the server at ``url``, as the user of ``token``; closes its connections at the end.

    Raises ValueError if ``url`` is not a valid address.
    """
    # Imported here, because it takes a tenth of a second and room connections do not need it.
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
    """Calls the API of one server as one user. Made by `open_api`; usable from several tasks at once.

    Every call raises ApiError if the server refuses it, and ApiUnreachable if there is no usable response; in the
    latter case the call may have taken effect. Calls are never retried automatically.
    """

    def __init__(self, http: "httpx.AsyncClient") -> None:
        self._http = http

    @property
    def origin(self) -> str:
        """The server's address without a trailing slash."""
        return str(self._http.base_url).rstrip("/")

    async def visit(self, source: str, *, context: PageContext | None = None, anonymous: str | None = None) -> Visit:
        """Create an anonymous visitor of a source, with a chat. With a visitor's token, renew it and keep the chat.

        ``context`` is the page that the visitor is on. ``anonymous`` is the token of an anonymous visitor who has
        signed in: its chats become those of this user.
        """
        body: dict[str, object] = {"source": source}
        if context is not None:
            body["context"] = msgspec.to_builtins(context)
        if anonymous is not None:
            body["anonymous"] = anonymous
        return await self._call(Visit, "POST", "/api/visitors", body=body)

    async def widget(self, source: str) -> WidgetInfo:
        """Fetch what the widget of a source shows. Needs no token."""
        return await self._call(WidgetInfo, "GET", f"/api/sources/{source}/widget")

    async def set_widget(self, source: str, config: WidgetConfig) -> WidgetInfo:
        """Store the configuration of a source's widget, and return what the widget shows now. For administrators."""
        return await self._call(WidgetInfo, "PUT", f"/api/sources/{source}/widget", body=msgspec.to_builtins(config))

    async def visitor(self, chat: UUID) -> VisitorInfo:
        """Fetch what is known about the owner of a chat. For operators."""
        return await self._call(VisitorInfo, "GET", f"/api/chats/{chat}/visitor")

    async def replies(self) -> tuple[SavedReply, ...]:
        """List the saved replies of this operator's sources, and the personal ones, by title."""
        return await self._call(tuple[SavedReply, ...], "GET", "/api/replies")

    async def add_reply(self, title: str, text: str, *, shortcut: str = "", source: str | None = None) -> SavedReply:
        """Save a reply for all operators of ``source``, which is for supervisors, or a personal one."""
        body = {"title": title, "text": text, "shortcut": shortcut, "source": source}
        return await self._call(SavedReply, "POST", "/api/replies", body=body)

    async def change_reply(
        self, reply: UUID, *, title: str | None = None, text: str | None = None, shortcut: str | None = None
    ) -> SavedReply:
        """Change the fields of a saved reply that are given, and return it."""
        body = {"title": title, "text": text, "shortcut": shortcut}
        return await self._call(SavedReply, "PATCH", f"/api/replies/{reply}", body=body)

    async def delete_reply(self, reply: UUID) -> None:
        """Delete a saved reply."""
        await self._request("DELETE", f"/api/replies/{reply}")

    async def blocks(self) -> tuple[Block, ...]:
        """List the blocks, the newest first. For supervisors."""
        return await self._call(tuple[Block, ...], "GET", "/api/blocks")

    async def block(
        self, *, user: int | None = None, address: str | None = None, reason: str = "", seconds: float | None = None
    ) -> Block:
        """Block the visitor with the id ``user``, or an address or network, for ``seconds`` or for ever.

        Their sockets are closed. If they are blocked already, that block gets the reason and the end. For supervisors.
        """
        body = {"user": user, "address": address, "reason": reason, "seconds": seconds}
        return await self._call(Block, "POST", "/api/blocks", body=body)

    async def unblock(self, block_id: int) -> None:
        """Remove a block. For supervisors."""
        await self._request("DELETE", f"/api/blocks/{block_id}")

    async def settings(self) -> Mapping[str, object]:
        """Fetch this operator's settings of the console."""
        return await self._call(dict[str, object], "GET", "/api/operators/me/settings")

    async def change_settings(self, changes: Mapping[str, object]) -> Mapping[str, object]:
        """Change settings of the console, and return all of them. None removes one."""
        return await self._call(dict[str, object], "PATCH", "/api/operators/me/settings", body=changes)

    async def chats(
        self, *, status: ChatStatus | None = None, source: str | None = None, limit: int = 50
    ) -> tuple[Chat, ...]:
        """List chats this user may see, latest activity first, at most ``limit``."""
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
        """Fetch a page of the chats this user may see. ``cursor`` is the ``next`` of the previous page.

        ``owner`` is the id of a visitor; ``name`` has words of visitors' names. Only operators may ask for a ``name``
        or a ``tag``. If over 1,000 visitors have such a name, a page may be short, or empty, and still have a ``next``.

        Following the cursors with unchanged filters returns every chat exactly once, in the order the list had at the
        first page; only chats that were created or removed meanwhile may be missing.
        """
        query = _list_query(status, source, owner, name, tag, limit, cursor)
        response = await self._request("GET", "/api/chats", query=query)
        return ChatPage(_decode(tuple[Chat, ...], response), _next_cursor(response))

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
        query = _list_query(status, source, owner, name, tag, limit, cursor)
        return await self._call(SummaryPage, "GET", "/api/chats", query={**query, "view": "summary"})

    async def set_tags(self, chat: UUID, tags: Collection[str]) -> tuple[str, ...]:
        """Give the chat exactly these tags, and return them sorted. For operators."""
        answer = await self._call(_Tags, "PUT", f"/api/chats/{chat}/tags", body={"tags": list(tags)})
        return answer.tags

    async def chat(self, chat: UUID) -> Chat:
        """Fetch one chat."""
        return await self._call(Chat, "GET", f"/api/chats/{chat}")

    async def history(
        self, chat: UUID, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> HistoryPage:
        """Fetch messages before or after an index, which is exclusive; pass only one. Without, the newest messages."""
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
        """Store a message. A call that is repeated with the same ``client_id`` stores it only once."""
        body: dict[str, object] = {
            "text": text,
            "attachments": [str(attachment) for attachment in attachments],
            "type": type.value,
            "client_id": client_id or uuid4().hex,
        }
        if type_role is not None:
            body["type_role"] = type_role.value
        return await self._call(Message, "POST", f"/api/chats/{chat}/messages", body=body)

    async def edit(self, message_id: int, text: str) -> Message:
        """Replace the text of a message of this user. ApiError ``too_late`` means that it is too old for that."""
        return await self._call(Message, "PATCH", f"/api/messages/{message_id}", body={"text": text})

    async def redact(self, message_id: int) -> Message:
        """Remove the text and the files of a message. It keeps its index and its author."""
        return await self._call(Message, "DELETE", f"/api/messages/{message_id}")

    async def transcript(self, chat: UUID, format: str = "text") -> str:
        """Fetch the whole chat as ``text``, ``json`` or ``html``, with what this user may see of it."""
        return (await self._request("GET", f"/api/chats/{chat}/transcript", query={"format": format})).text

    async def search_messages(
        self,
        text: str,
        *,
        files: bool = False,
        source: str | None = None,
        chat: UUID | None = None,
        limit: int = 50,
        cursor: int | None = None,
    ) -> "MessagesFound":
        """Find messages that have all words of ``text``, or with ``files`` those whose files' names have them.

        The newest come first. ``cursor`` is the ``next`` of the previous page.
        """
        query = {"q": text, "kind": "files" if files else "messages"}
        if chat is not None:
            query["chat"] = str(chat)
        found, after = await self._search(tuple[Message, ...], query, source, limit, cursor)
        return MessagesFound(found, after)

    async def search_people(
        self, text: str, *, source: str | None = None, limit: int = 50, cursor: int | None = None
    ) -> "PeopleFound":
        """Find operators and owners of chats whose names and id have all words of ``text``. For operators."""
        query = {"q": text, "kind": "people"}
        found, after = await self._search(tuple[User, ...], query, source, limit, cursor)
        return PeopleFound(found, after)

    async def _search(
        self, cls: type[T], query: Mapping[str, str], source: str | None, limit: int, cursor: int | None
    ) -> tuple[T, int | None]:
        parameters = dict(query) | {"limit": str(limit)}
        if source is not None:
            parameters["source"] = source
        if cursor is not None:
            parameters["before"] = str(cursor)
        response = await self._request("GET", "/api/search", query=parameters)
        after = _next_cursor(response)
        return _decode(cls, response), None if after is None else int(after)

    async def upload(self, content: bytes | AsyncIterable[bytes], filename: str) -> Attachment:
        """Upload a file, as bytes or in chunks; one message of this user may have it as an attachment within a day.

        The server detects the type from the content and removes unsafe characters from the name.
        """
        import httpx

        boundary = uuid4().hex
        # The server responds after it has scanned the file.
        timeout = httpx.Timeout(ANSWER_SECONDS, read=UPLOAD_ANSWER_SECONDS)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        async with aclosing(_multipart(boundary, content, filename)) as body:
            request = self._http.build_request(
                "POST", "/api/attachments", content=body, headers=headers, timeout=timeout
            )
            return _decode(Attachment, await self._send(request))

    async def download(self, attachment: Attachment, *, preview: bool = False) -> bytes:
        """Download an attachment, or its preview, from the link in the message.

        Links expire after some minutes; `history` returns new ones. Raises ValueError if there is no preview.
        """
        url = attachment.url_preview if preview else attachment.url
        if not url:
            raise ValueError(f"{attachment.filename} has no preview")
        request = self._http.build_request("GET", ServerAddress.parse(self.origin).link(url))
        # The link itself is signed for this user, and may lead to another server, which must not see the token.
        request.headers.pop("Authorization", None)
        return (await self._send(request)).content

    async def add_note(self, chat: UUID, text: str) -> Message:
        """Store an internal note: a system message that only operators see."""
        return await self.add_message(chat, text, type=MessageType.SYSTEM, type_role=Role.OPERATOR)

    async def accept(self, chat: UUID) -> Chat:
        """Accept a new chat. Of two operators who accept at the same time, one gets ApiError ``not_owner``."""
        return await self._transition(chat, "accept")

    async def close(self, chat: UUID) -> Chat:
        """Close the chat."""
        return await self._transition(chat, "close")

    async def reopen(self, chat: UUID) -> Chat:
        """Reopen a closed chat."""
        return await self._transition(chat, "reopen")

    async def transfer(self, chat: UUID, operator_id: int) -> Chat:
        """Transfer the chat to an operator, who may be the caller."""
        return await self._transition(chat, "transfer", {"operator_id": operator_id})

    async def return_to_queue(self, chat: UUID) -> Chat:
        """Return the chat to the queue: its status is new again, and it has no operator."""
        return await self._transition(chat, "return")

    async def operators(self) -> tuple[Operator, ...]:
        """List the operators this user may see."""
        return await self._call(tuple[Operator, ...], "GET", "/api/operators")

    async def _transition(self, chat: UUID, action: str, body: Mapping[str, object] | None = None) -> Chat:
        return await self._call(Chat, "POST", f"/api/chats/{chat}/{action}", body=body or {})

    async def _call(
        self,
        cls: type[T],
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> T:
        return _decode(cls, await self._request(method, path, query=query, body=body))

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> "httpx.Response":
        return await self._send(self._http.build_request(method, path, params=query, json=body))

    async def _send(self, request: "httpx.Request") -> "httpx.Response":
        import httpx

        try:
            response = await self._http.send(request)
        except httpx.HTTPError as error:
            # Without a connection the server cannot have received the request.
            asked = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            reason = explain_failure(error)
            raise ApiUnreachable(f"cannot reach {self._http.base_url}: {reason}", asked=asked) from error
        if not response.is_success:
            raise _api_error(response.status_code, response.content)
        return response


@attrs.frozen
class _Tags:
    tags: tuple[str, ...]


def _list_query(
    status: ChatStatus | None,
    source: str | None,
    owner: int | None,
    name: str | None,
    tag: str | None,
    limit: int,
    cursor: str | None,
) -> dict[str, str]:
    query = {
        "status": None if status is None else status.value,
        "source": source,
        "owner": None if owner is None else str(owner),
        "q": name,
        "tag": tag,
        "limit": str(limit),
        "before": cursor,
    }
    return {name: value for name, value in query.items() if value is not None}


async def _multipart(
    boundary: str, content: bytes | AsyncIterable[bytes], filename: str
) -> AsyncGenerator[bytes, None]:
    """Encode a body with one file, whose name is escaped as browsers do it."""
    name = filename.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    disposition = f'form-data; name="file"; filename="{name}"'
    yield f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode(errors="replace")
    if isinstance(content, bytes):
        yield content
    else:
        async for chunk in content:
            yield chunk
    yield f"\r\n--{boundary}--\r\n".encode()


def _next_cursor(response: "httpx.Response") -> str | None:
    """Return the cursor of the next page, None on the last one."""
    next_url = response.links.get("next", {}).get("url")
    # Use only the cursor of the link: behind a proxy the server may not know its public path.
    cursors = parse_qs(urlsplit(next_url).query).get("before", []) if next_url else []
    return cursors[0] if cursors else None


def _decode(cls: type[T], response: "httpx.Response") -> T:
    try:
        return msgspec.json.decode(response.content, type=cls)
    except msgspec.MsgspecError as error:
        request = response.request
        raise ApiUnreachable(
            f"{request.method} {request.url.path}: the response is not from this API: {error}"
        ) from error


def _api_error(status: int, content: bytes) -> ApiError:
    body = parse_error_body(content)
    return ApiError(status, body.code or f"http_{status}", body.detail, body.path)

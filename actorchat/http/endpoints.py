"""Lists the endpoints of the HTTP API with their parameters, bodies and answers, for the OpenAPI document.

Each method of each route has an entry here; a test compares them. The classes are those that validate bodies and encode
answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actorchat.chat.search import SearchKind
from actorchat.http.administration_endpoints import ADMINISTRATION_ENDPOINTS
from actorchat.http.answers import (
    AuditAnswer,
    ErasedAnswer,
    Health,
    HistoryPage,
    SummaryPage,
    TagsAnswer,
    VisitAnswer,
)
from actorchat.http.console_endpoints import CONSOLE_ENDPOINTS
from actorchat.http.endpoint_descriptions import LIMIT, NUMBER, SOURCES, Access, Endpoint, Parameter
from actorchat.http.requests import ChatBody, EditBody, MessageBody, TagsBody, TransferBody, VisitorBody
from actorchat.http.transcripts import TranscriptFormat
from actorchat.protocol import Attachment, Chat, Message, Operator, User

__all__ = ["ENDPOINTS"]


_KINDS: Final = [each.value for each in SearchKind]
_LIST_REFUSALS: Final = ("not_allowed", "not_found")
_CHANGE: Final = ("conflict", "chat_closed", "not_owner", "over_capacity", "overloaded", "blocked")


def _change(summary: str, description: str, *, body: type | None = None, operators: bool = True) -> Endpoint:
    return Endpoint(
        tag="Chats",
        summary=summary,
        description=description,
        body=body,
        answers={200: Chat},
        refusals=_CHANGE,
        operators=operators,
        repeatable=True,
    )


ENDPOINTS: Final[Mapping[tuple[str, str], Endpoint]] = {
    **CONSOLE_ENDPOINTS,
    **ADMINISTRATION_ENDPOINTS,
    ("POST", "/api/visitors"): Endpoint(
        tag="Visitors",
        summary="Begin or continue a visit",
        description="Without a token: a new anonymous visitor. With a visitor's token: the token is renewed, and the"
        " visitor's open chat returned, or a new one. With `anonymous` too, the token of an anonymous visitor who has"
        " signed in: that visitor's chats, messages and files become those of the token's user, and its tokens become"
        " worthless. A repeated call is answered in the same way.",
        body=VisitorBody,
        answers={201: VisitAnswer, 200: VisitAnswer},
        refusals=("not_allowed", "blocked", "not_found", "rate_limited", "overloaded"),
        access=Access.OPTIONAL,
    ),
    ("GET", "/api/operators"): Endpoint(
        tag="Operators",
        summary="List operators",
        description="The operators of the caller's sources, with their presence and counters.",
        parameters=(SOURCES,),
        answers={200: list[Operator]},
        refusals=_LIST_REFUSALS,
        operators=True,
    ),
    ("GET", "/api/chats"): Endpoint(
        tag="Chats",
        summary="List chats",
        description="Newest activity first. The header `Link` leads to the next page. Following the links shows each"
        " chat that matches throughout exactly once, however chats move.",
        parameters=(
            Parameter("view", {"const": "summary"}, "Answer with summaries. For operators."),
            Parameter("tag", {"type": "string"}, "Only chats with this tag. For operators."),
            Parameter(
                "q",
                {"type": "string"},
                "Only chats of owners with these words in name or id. For operators. If over 1,000 people have such a"
                " name, a page may be short, or empty, and still have a next one.",
            ),
            Parameter("owner", NUMBER, "Only chats of the visitor with this id."),
            Parameter("cursor", {"type": "string", "minLength": 1}, "The same as `before`."),
            Parameter("status", {"type": "string", "enum": ["new", "open", "closed"]}, "Only chats in this status."),
            SOURCES,
            Parameter("operator", NUMBER, "Only chats of the operator with this id."),
            Parameter(
                "before",
                {"type": "string", "minLength": 1},
                "The cursor of a `Link` header, or the uuid of a chat: what comes after its place in the list.",
            ),
            LIMIT,
        ),
        answers={200: list[Chat] | SummaryPage},
        headers={"Link": 'The next page, as `<…>; rel="next"`; the last page has none.'},
        refusals=_LIST_REFUSALS,
    ),
    ("POST", "/api/chats"): Endpoint(
        tag="Chats",
        summary="Reserve a chat for a user",
        description="200 if the user has an open chat at this source already.",
        body=ChatBody,
        answers={201: Chat, 200: Chat},
        refusals=("not_allowed", "not_found", "rate_limited", "overloaded", "blocked"),
        operators=True,
        repeatable=True,
    ),
    ("GET", "/api/chats/{chat:uuid}"): Endpoint(tag="Chats", summary="Read a chat", answers={200: Chat}),
    ("GET", "/api/chats/{chat:uuid}/messages"): Endpoint(
        tag="Messages",
        summary="Read the history of a chat",
        description="The newest messages, or those before or after an index. A page of long messages ends early.",
        parameters=(
            Parameter("before", NUMBER, "Only messages with a smaller index. Not together with `after`."),
            Parameter("after", NUMBER, "Only messages with a larger index. Not together with `before`."),
            LIMIT,
        ),
        answers={200: HistoryPage, 304: None},
        headers={"ETag": "Names this answer, for `If-None-Match`."},
    ),
    ("POST", "/api/chats/{chat:uuid}/messages"): Endpoint(
        tag="Messages",
        summary="Send a message",
        description="With a `client_id` the call is safe to repeat: 200 with the stored message. Operators may store"
        " system messages, which only the role in `type_role` sees.",
        body=MessageBody,
        answers={201: Message, 200: Message},
        refusals=(
            *_CHANGE,
            "not_allowed",
            "empty",
            "too_long",
            "attachment_unknown",
            "attachment_rejected",
            "too_many_attachments",
            "rate_limited",
        ),
        repeatable=True,
    ),
    ("PATCH", "/api/messages/{message:int}"): Endpoint(
        tag="Messages",
        summary="Edit a message",
        description="For its author, for a time after sending it. Its files stay.",
        body=EditBody,
        answers={200: Message},
        refusals=(*_CHANGE, "not_allowed", "empty", "too_long", "too_late"),
    ),
    ("DELETE", "/api/messages/{message:int}"): Endpoint(
        tag="Messages",
        summary="Redact a message",
        description="Its text and its files are deleted; it keeps its index, author and time. For its author, for a"
        " time after sending it, and for supervisors of the chat's source.",
        answers={200: Message},
        refusals=(*_CHANGE, "not_allowed", "too_late"),
    ),
    ("GET", "/api/chats/{chat:uuid}/transcript"): Endpoint(
        tag="Messages",
        summary="Download a transcript",
        description="The whole chat as a file, with what the caller may see: text, JSON or HTML.",
        parameters=(
            Parameter(
                "format", {"type": "string", "enum": [each.value for each in TranscriptFormat]}, "The kind of file."
            ),
        ),
        answers={200: "*/*"},
    ),
    ("GET", "/api/search"): Endpoint(
        tag="Messages",
        summary="Search",
        description="Messages by the words of their text or the names of their files, or people by their names. Nothing"
        " is found that the caller may not see.",
        parameters=(
            Parameter("q", {"type": "string", "minLength": 1, "maxLength": 500}, "Words that a result has."),
            Parameter(
                "kind",
                {"type": "string", "enum": [each.value for each in SearchKind], "default": "messages"},
                "What to find.",
            ),
            SOURCES,
            Parameter("chat", {"type": "string", "format": "uuid"}, "Only in this chat."),
            Parameter("before", NUMBER, "The cursor of a `Link` header."),
            LIMIT,
        ),
        answers={200: list[Message] | list[User]},
        headers={"Link": 'The next page, as `<…>; rel="next"`; the last page has none.'},
        refusals=(*_LIST_REFUSALS, "not_participant"),
    ),
    **{
        ("POST", f"/api/people/{role}" + "/{person:int}/export"): Endpoint(
            tag="People",
            summary=f"Export a{name}",
            description="All that is stored about the person, as a zip file. For supervisors and administrators.",
            answers={200: "application/zip"},
            refusals=_LIST_REFUSALS,
        )
        for role, name in (("user", " customer"), ("operator", "n operator"))
    },
    **{
        ("POST", f"/api/people/{role}" + "/{person:int}/erase"): Endpoint(
            tag="People",
            summary=f"Erase a{name}",
            description="Removes messages, files and names for ever. For supervisors and administrators; operators are"
            " erased by administrators only.",
            answers={200: ErasedAnswer},
            refusals=(*_LIST_REFUSALS, "conflict", "overloaded"),
        )
        for role, name in (("user", " customer"), ("operator", "n operator"))
    },
    ("GET", "/api/audit"): Endpoint(
        tag="People",
        summary="List the records",
        description="Exports, erasures, deletions of old chats, and changes of accounts and tags. The newest first,"
        " without any message. For administrators.",
        parameters=(Parameter("before", NUMBER, "Only records with a lower number."), LIMIT),
        answers={200: list[AuditAnswer]},
        refusals=("not_allowed",),
    ),
    ("GET", "/api/chats/{chat:uuid}/tags"): Endpoint(
        tag="Chats", summary="Read the tags of a chat", answers={200: TagsAnswer}, operators=True
    ),
    ("PUT", "/api/chats/{chat:uuid}/tags"): Endpoint(
        tag="Chats",
        summary="Set the tags of a chat",
        description="The chat then has exactly these tags.",
        body=TagsBody,
        answers={200: TagsAnswer},
        refusals=_CHANGE,
        operators=True,
    ),
    ("POST", "/api/chats/{chat:uuid}/accept"): _change(
        "Accept a chat", "Of two operators who accept at once, one wins."
    ),
    ("POST", "/api/chats/{chat:uuid}/transfer"): _change(
        "Transfer a chat", "Give the chat to an operator, who may be the caller.", body=TransferBody
    ),
    ("POST", "/api/chats/{chat:uuid}/return"): _change("Return a chat", "Put the caller's chat back into the queue."),
    ("POST", "/api/chats/{chat:uuid}/close"): _change("Close a chat", "End the conversation.", operators=False),
    ("POST", "/api/chats/{chat:uuid}/reopen"): _change("Reopen a chat", "Continue the conversation.", operators=False),
    ("POST", "/api/attachments"): Endpoint(
        tag="Files",
        summary="Upload a file",
        description="A message of the uploader may name its `uuid` once, within a day.",
        upload=True,
        answers={201: Attachment},
        refusals=("not_allowed", "empty", "attachment_rejected", "rate_limited", "overloaded", "blocked"),
    ),
    ("GET", "/api/attachments/{file:uuid}"): Endpoint(
        tag="Files",
        summary="Download a file",
        description="Through the `url` of an attachment, whose ticket replaces the token.",
        parameters=(Parameter("ticket", {"type": "string"}, "Part of the link."),),
        answers={200: "*/*", 206: "*/*", 304: None, 416: None},
        refusals=("not_allowed", "not_found"),
        access=Access.OPTIONAL,
    ),
    ("GET", "/api/attachments/{file:uuid}/preview"): Endpoint(
        tag="Files",
        summary="Download the preview of an image",
        description="Through the `url_preview` of an attachment.",
        parameters=(Parameter("ticket", {"type": "string"}, "Part of the link."),),
        answers={200: "image/webp", 206: "image/webp", 304: None, 416: None},
        refusals=("not_allowed", "not_found"),
        access=Access.OPTIONAL,
    ),
    ("GET", "/health/live"): Endpoint(
        tag="Server", summary="Whether the process runs", answers={200: Health}, access=Access.PUBLIC
    ),
    ("GET", "/health/ready"): Endpoint(
        tag="Server",
        summary="Whether the server accepts work",
        description="503 while it is stopping or its storage is unavailable.",
        answers={200: Health},
        refusals=("draining", "storage_unavailable"),
        access=Access.PUBLIC,
    ),
    ("GET", "/metrics"): Endpoint(
        tag="Server",
        summary="Metrics for Prometheus",
        description="For the addresses and the token in the settings.",
        answers={200: "text/plain"},
        refusals=("not_authenticated", "not_allowed"),
        access=Access.PUBLIC,
    ),
    ("GET", "/asyncapi.json"): Endpoint(
        tag="Server",
        summary="The AsyncAPI document of the websockets and brokers",
        answers={200: dict},
        access=Access.PUBLIC,
    ),
    ("GET", "/docs"): Endpoint(
        tag="Server", summary="The documentation of the HTTP API", answers={200: "text/html"}, access=Access.PUBLIC
    ),
    ("GET", "/docs/websockets"): Endpoint(
        tag="Server",
        summary="The documentation of the websockets and brokers",
        answers={200: "text/html"},
        access=Access.PUBLIC,
    ),
    ("GET", "/openapi.json"): Endpoint(
        tag="Server", summary="This document", answers={200: dict}, access=Access.PUBLIC
    ),
}

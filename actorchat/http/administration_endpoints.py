"""Lists the endpoints of the console's administration; see `actorchat.http.endpoints`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actorchat.actor_tree import SortOrder, Tree
from actorchat.http.account_administration import AccountBody, AccountChangeBody
from actorchat.http.answers import (
    AccountAdded,
    AccountAnswer,
    OneTimePassword,
    ServerNumbers,
    TagCount,
    TagsChanged,
)
from actorchat.http.endpoint_descriptions import LIMIT, SOURCES, Endpoint, Parameter
from actorchat.http.live import MAX_FILTER
from actorchat.http.tags import RemoveTagBody, RenameTagBody

__all__ = ["ADMINISTRATION_ENDPOINTS"]

_CHANGE: Final = ("conflict", "overloaded")

ADMINISTRATION_ENDPOINTS: Final[Mapping[tuple[str, str], Endpoint]] = {
    ("GET", "/api/accounts"): Endpoint(
        tag="Administration",
        summary="List accounts",
        description="The accounts of operators by login. For administrators.",
        answers={200: list[AccountAnswer]},
        operators=True,
    ),
    ("POST", "/api/accounts"): Endpoint(
        tag="Administration",
        summary="Add an account",
        description="The answer has a one-time password, which the first sign-in replaces. For administrators.",
        body=AccountBody,
        answers={201: AccountAdded},
        refusals=("not_found", *_CHANGE),
        operators=True,
    ),
    ("PATCH", "/api/accounts/{account:int}"): Endpoint(
        tag="Administration",
        summary="Change an account",
        description="What is not given stays. Disabling an account ends its sign-ins and sockets. Nobody can disable"
        " their own account, and there is always an administrator. For administrators.",
        body=AccountChangeBody,
        answers={200: AccountAnswer},
        refusals=_CHANGE,
        operators=True,
    ),
    ("POST", "/api/accounts/{account:int}/password"): Endpoint(
        tag="Administration",
        summary="Reset the password of an account",
        description="Ends its sign-ins and sockets. The answer has a one-time password, which the next sign-in"
        " replaces. For administrators.",
        answers={200: OneTimePassword},
        refusals=_CHANGE,
        operators=True,
    ),
    ("POST", "/api/accounts/{account:int}/sign-out"): Endpoint(
        tag="Administration",
        summary="Sign an account out everywhere",
        description="Ends its sign-ins, closes its sockets with 4410, and makes its tokens worthless. For"
        " administrators.",
        answers={204: None},
        refusals=_CHANGE,
        operators=True,
    ),
    ("GET", "/api/tags"): Endpoint(
        tag="Administration",
        summary="List tags",
        description="The tags of the chats of the caller's sources, the most used first, at most 1,000.",
        parameters=(SOURCES,),
        answers={200: list[TagCount]},
        refusals=("not_found",),
        operators=True,
    ),
    ("POST", "/api/tags/rename"): Endpoint(
        tag="Administration",
        summary="Rename a tag",
        description="In all chats of the caller's sources that have it. A chat that has the new tag already loses the"
        " old one, so two tags become one. For administrators.",
        body=RenameTagBody,
        answers={200: TagsChanged},
        refusals=_CHANGE,
        operators=True,
    ),
    ("POST", "/api/tags/remove"): Endpoint(
        tag="Administration",
        summary="Remove a tag",
        description="From all chats of the caller's sources that have it. For administrators.",
        body=RemoveTagBody,
        answers={200: TagsChanged},
        refusals=_CHANGE,
        operators=True,
    ),
    ("GET", "/api/actors"): Endpoint(
        tag="Administration",
        summary="List live actors",
        description="The actors of the server process that answers, with the totals of each family. Types of messages"
        " are shown, their content never. For administrators.",
        parameters=(
            Parameter(
                "q",
                {"type": "string", "maxLength": MAX_FILTER},
                "Only actors with this text in their name, kind, family, state, current message or what they wait for.",
            ),
            Parameter(
                "sort",
                {"type": "string", "enum": [each.value for each in SortOrder], "default": "inbox"},
                "What comes first: the largest number, or names in order.",
            ),
            LIMIT,
            Parameter("page", {"type": "integer", "minimum": 1, "maximum": 2**31, "default": 1}, "The page to show."),
        ),
        answers={200: Tree},
        operators=True,
    ),
    ("GET", "/api/statistics"): Endpoint(
        tag="Administration",
        summary="Read the numbers of the server",
        description="Some of those in `/metrics`, of the server process that answers. For administrators.",
        answers={200: ServerNumbers},
        operators=True,
    ),
}

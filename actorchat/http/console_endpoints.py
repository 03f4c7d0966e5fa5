"""Lists the endpoints for operators, their accounts and consoles, and for widgets; see `actorchat.http.endpoints`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actorchat.http.accounts import AwayBody, CodeBody, LoginBody
from actorchat.http.answers import BlockAnswer, SignedInAnswer
from actorchat.http.blocks import BlockBody
from actorchat.http.console import ReplyBody, ReplyChangeBody
from actorchat.http.endpoint_descriptions import SOURCES, Access, Endpoint
from actorchat.http.ports import OperatorProfile
from actorchat.protocol import SavedReply, VisitorInfo, WidgetConfig, WidgetInfo

__all__ = ["CONSOLE_ENDPOINTS"]

CONSOLE_ENDPOINTS: Final[Mapping[tuple[str, str], Endpoint]] = {
    ("POST", "/api/login"): Endpoint(
        tag="Operators",
        summary="Sign in",
        description="An operator with an account signs in. A cookie renews the token later. `new_password` replaces the"
        " password and ends all other sign-ins; a one-time password works only together with one.",
        body=LoginBody,
        answers={200: SignedInAnswer},
        refusals=("not_authenticated", "not_allowed", "new_password_needed", "rate_limited", "overloaded", "conflict"),
        access=Access.PUBLIC,
    ),
    ("POST", "/api/login/once"): Endpoint(
        tag="Operators",
        summary="Sign in with a one-time code",
        body=CodeBody,
        answers={200: SignedInAnswer},
        refusals=("not_authenticated", "not_allowed", "rate_limited", "overloaded"),
        access=Access.PUBLIC,
    ),
    ("POST", "/api/token"): Endpoint(
        tag="Operators",
        summary="Renew a sign-in",
        description="With the cookie of the sign-in, from pages of this server.",
        answers={200: SignedInAnswer},
        refusals=("not_authenticated", "not_allowed", "rate_limited", "overloaded"),
        access=Access.PUBLIC,
    ),
    ("POST", "/api/sign-out"): Endpoint(
        tag="Operators",
        summary="Sign out everywhere",
        description="Ends all sign-ins of the caller, closes their sockets with 4410, and makes all their tokens"
        " worthless. Visitors may do so, too.",
        answers={204: None},
        refusals=("conflict",),
    ),
    ("GET", "/api/operators/me"): Endpoint(
        tag="Operators", summary="Read the own profile", answers={200: OperatorProfile}, operators=True
    ),
    ("GET", "/api/blocks"): Endpoint(
        tag="Operators",
        summary="List blocks",
        description="The blocks that have not ended, the newest first. For supervisors.",
        answers={200: list[BlockAnswer]},
        operators=True,
    ),
    ("POST", "/api/blocks"): Endpoint(
        tag="Operators",
        summary="Block a visitor or an address",
        description="Either `user` or `address`, which may be a network. Sockets of the visitor are closed with 4403."
        " Blocking again replaces the reason and the end. For supervisors.",
        body=BlockBody,
        answers={201: BlockAnswer},
        refusals=("not_found", "conflict"),
        operators=True,
        repeatable=True,
    ),
    ("DELETE", "/api/blocks/{block:int}"): Endpoint(
        tag="Operators",
        summary="Remove a block",
        description="For supervisors.",
        answers={204: None},
        refusals=("not_found",),
        operators=True,
    ),
    ("POST", "/api/operators/me/away"): Endpoint(
        tag="Operators",
        summary="Be away or back",
        description="An operator who is away is not online.",
        body=AwayBody,
        answers={200: OperatorProfile},
        refusals=("conflict",),
        operators=True,
    ),
    ("GET", "/api/operators/me/settings"): Endpoint(
        tag="Operators",
        summary="Read the settings of the own console",
        description="Any JSON object.",
        answers={200: dict},
        operators=True,
    ),
    ("PATCH", "/api/operators/me/settings"): Endpoint(
        tag="Operators",
        summary="Change settings of the own console",
        description="The other settings stay; null removes one.",
        body=dict,
        answers={200: dict},
        refusals=("conflict", "too_long"),
        operators=True,
    ),
    ("GET", "/api/replies"): Endpoint(
        tag="Operators",
        summary="List saved replies",
        description="The caller's own, and those of the caller's sources.",
        parameters=(SOURCES,),
        answers={200: list[SavedReply]},
        refusals=("not_found",),
        operators=True,
    ),
    ("POST", "/api/replies"): Endpoint(
        tag="Operators",
        summary="Save a reply",
        description="A personal one, or one of a source, which needs the rights of a supervisor.",
        body=ReplyBody,
        answers={201: SavedReply},
        refusals=("not_found", "conflict", "over_capacity"),
        operators=True,
        repeatable=True,
    ),
    ("PATCH", "/api/replies/{reply:uuid}"): Endpoint(
        tag="Operators",
        summary="Change a saved reply",
        body=ReplyChangeBody,
        answers={200: SavedReply},
        refusals=("conflict",),
        operators=True,
    ),
    ("DELETE", "/api/replies/{reply:uuid}"): Endpoint(
        tag="Operators", summary="Delete a saved reply", answers={204: None}, refusals=("conflict",), operators=True
    ),
    ("GET", "/api/chats/{chat:uuid}/visitor"): Endpoint(
        tag="Chats",
        summary="Read what is known of the visitor",
        description="Language, time zone and the latest pages; for supervisors also the network address.",
        answers={200: VisitorInfo},
        operators=True,
    ),
    ("GET", "/api/sources/{source}/widget"): Endpoint(
        tag="Visitors",
        summary="Read the widget of a source",
        description="What a widget shows before anybody has written; up to 30 seconds old.",
        answers={200: WidgetInfo},
        refusals=("rate_limited",),
        access=Access.PUBLIC,
    ),
    ("PUT", "/api/sources/{source}/widget"): Endpoint(
        tag="Visitors",
        summary="Configure the widget of a source",
        description="For administrators of the source.",
        body=WidgetConfig,
        answers={200: WidgetInfo},
        refusals=("conflict",),
        operators=True,
    ),
}

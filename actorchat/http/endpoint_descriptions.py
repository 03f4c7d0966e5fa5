"""Defines how an endpoint of the HTTP API is described: its parameters, body, answers and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

import attrs

__all__ = ["LIMIT", "NUMBER", "SOURCES", "Access", "Endpoint", "Parameter"]


@attrs.frozen
class Parameter:
    """A query parameter. `schema` is JSON Schema; an array may be given several times."""

    name: str
    schema: Mapping[str, Any]  # Any: JSON
    description: str


class Access(Enum):
    """Whether a caller needs a token, may have one, or needs none."""

    TOKEN = auto()
    OPTIONAL = auto()
    PUBLIC = auto()


@attrs.frozen(kw_only=True)
class Endpoint:
    """One method of one path.

    `answers` maps the statuses of success to the class of the JSON body (or a list or union of classes), a content type
    for other bodies, or None for none. `refusals` are the codes of errors that are particular to this endpoint; those
    that every endpoint may answer with are added. `operators`: only for operators. `repeatable`: the endpoint honours
    an `Idempotency-Key`.
    """

    tag: str
    summary: str
    answers: Mapping[int, Any]  # Any: see above
    description: str = ""
    body: type | None = None
    upload: bool = False
    parameters: tuple[Parameter, ...] = ()
    headers: Mapping[str, str] = attrs.field(factory=dict)
    refusals: tuple[str, ...] = ()
    access: Access = Access.TOKEN
    operators: bool = False
    repeatable: bool = False


NUMBER: Final = {"type": "integer", "minimum": -(2**53), "maximum": 2**53}
LIMIT: Final = Parameter(
    "limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "How many to return at most."
)
SOURCES: Final = Parameter(
    "source",
    {"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9_-]{1,64}$"}},
    "Only these widget sources; without it all of the caller's.",
)

"""Defines documents: small JSON values besides the chats, such as settings and saved replies. Has no IO."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import attrs

__all__ = ["ChangeDocument", "DocumentChanged", "DocumentKey", "DocumentKind", "visit_of"]


class DocumentKind(StrEnum):
    """The kinds of documents. The comment beside each names its `scope`."""

    __hash__ = str.__hash__

    WIDGET = "widget"
    """The configuration of a source's widget. Scope: the source."""
    REPLY = "reply"
    """A saved reply. Scope: the source, or `@` and the id of the operator that it belongs to. Name: its uuid."""
    SETTINGS = "settings"
    """The console settings of an operator. Scope: the operator's id."""
    VISIT = "visit"
    """The pages that a visitor has viewed, and whose chats it has got. Scope: the visitor's id."""
    CODE = "code"
    """A one-time code that was used, until it expires. The scope is empty. Name: the code's random number."""


class DocumentKey(NamedTuple):
    """Identifies a document. `name` is empty if there is one for each scope."""

    kind: DocumentKind
    scope: str
    name: str = ""


def visit_of(visitor: int) -> DocumentKey:
    """The key of the document about a visitor, who is named by id."""
    return DocumentKey(DocumentKind.VISIT, str(visitor))


@attrs.frozen
class ChangeDocument:
    """Replace a document by the result of `change`, which is called in the transaction with the stored text.

    None stands for no document: as the argument there is none yet, as the result it is deleted. `change` has no side
    effects. If it raises, nothing is stored.
    """

    key: DocumentKey
    change: Callable[[str | None], str | None]


@attrs.frozen
class DocumentChanged:
    """A `ChangeDocument` was stored. `text` is the document now."""

    text: str | None

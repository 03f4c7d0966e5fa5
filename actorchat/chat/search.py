"""Splits text into the words that search compares, and defines queries, their results and the port to search."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

import attrs

from actorchat.chat.model import ChatState, Identity, StoredMessage
from actorchat.protocol import Role, User

__all__ = [
    "MAX_WORDS",
    "FoundMessages",
    "FoundPeople",
    "Search",
    "SearchFilter",
    "SearchKind",
    "are_found",
    "fold_plain",
    "names_of",
    "words_of",
]

MAX_WORDS: Final = 10
"""Words of a query that count; further ones are ignored."""

WORD_CHARS: Final = 64
"""Of longer words only the beginning counts."""

SHORTEST_PREFIX: Final = 2
"""A shorter word of a query finds only that word, not all that begin with it."""

_PLAIN: Final = re.compile("[\x00-\x7f\u0410-\u044f\u0401\u0451]*")
"""ASCII, and the Russian letters in both cases."""

_WORD: Final = re.compile(r"[^\W_]+")


def fold_plain(text: str) -> str | None:
    """`text` as `words_of` folds it, if it has no characters but those of ASCII and Russian letters; else None."""
    return text.lower().replace("\u0451", "\u0435") if _PLAIN.fullmatch(text) else None


def words_of(text: str) -> list[str]:
    """The words of `text`, in lower case and without diacritics, but the Russian short i stays a letter of its own."""
    folded = fold_plain(text)
    if folded is None:
        decomposed = unicodedata.normalize("NFKD", text.casefold()).casefold()
        # The only letter whose mark makes another letter of the alphabets that people search in here.
        kept = unicodedata.normalize("NFKD", decomposed).replace("и\u0306", "й")
        folded = "".join(letter for letter in kept if not unicodedata.combining(letter))
    return [word[:WORD_CHARS] for word in _WORD.findall(folded)]


def names_of(user: User) -> set[str]:
    """The words by which a person is found."""
    return set(words_of(" ".join((user.lastname, user.firstname, user.patronymic, str(user.id)))))


def are_found(wanted: Iterable[str], words: Collection[str]) -> bool:
    """Whether each of `wanted`, words of a query, is among `words` or begins one of them."""
    return all(
        word in words or (len(word) >= SHORTEST_PREFIX and any(candidate.startswith(word) for candidate in words))
        for word in wanted
    )


class SearchKind(StrEnum):
    """The subject of a search: the texts of messages, the names of their files, or the names of people."""

    MESSAGES = "messages"
    FILES = "files"
    PEOPLE = "people"


@attrs.frozen(kw_only=True)
class SearchFilter:
    """A search for everything that has all of `words`, which are made by `words_of`.

    `sources` are the widget sources to search in, None for any. `chats`, if given, are the only chats to search in.
    `role` selects the messages which that role may see. `before` continues a search: the `next` of the page before.
    """

    words: tuple[str, ...]
    role: Role
    kind: SearchKind = SearchKind.MESSAGES
    sources: frozenset[str] | None = None
    chats: frozenset[UUID] | None = None
    before: int | None = None
    limit: int = 50


@attrs.frozen
class FoundMessages:
    """Messages with their chats, the newest first. `next` continues the search, None at its end."""

    messages: tuple[tuple[ChatState, StoredMessage], ...]
    next: int | None = None


@attrs.frozen
class FoundPeople:
    """People in no particular order. `next` continues the search, None at its end."""

    people: tuple[User, ...]
    next: int | None = None


class Search(Protocol):
    """Finds messages, files and people. Every method may raise `actorchat.chat.ports.StorageUnavailable`."""

    async def messages(self, which: SearchFilter) -> FoundMessages:
        """Messages whose text has all the words, or whose files' names have them."""

    async def people(self, which: SearchFilter) -> FoundPeople:
        """Operators of the sources, and owners of chats there, whose names and id have all the words."""

    def changed(self) -> None:
        """Notice that something was committed. Called for each batch; cheap."""

    def person_changed(self, users: Sequence[User]) -> None:
        """Notice new names."""

    def owners_changed(self, owners: Sequence[Identity]) -> None:
        """Notice visitors who own other chats than before."""

"""Turns a search of a caller into a filter that shows only what the caller may see."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import UUID

import attrs

from actorchat.chat.model import ChatState
from actorchat.chat.ports import ChatFilter, ChatPage
from actorchat.chat.search import MAX_WORDS, Search, SearchFilter, SearchKind, are_found, names_of, words_of
from actorchat.chat.service import ChatService
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import Problem
from actorchat.protocol import Role

__all__ = ["list_chats", "search_filter", "search_of"]

MAX_QUERY_CHARS: Final = 500
MOST_OWNERS: Final = 1_000
"""The number of people up to which the chats of a list are selected by the ids of their owners."""

MOST_READS: Final = 40
"""Reads of chats after which a page of such a list ends early, if there are more people."""

MOST_OWN_CHATS: Final = 200
"""The number of a visitor's chats that are searched, the latest ones."""


def search_of(chats: ChatService) -> Search:
    """Return the server's search. Raises Problem 503 if it has none."""
    if chats.search is None:
        raise Problem("storage_unavailable", "this server has no search")
    return chats.search


async def list_chats(
    access: Access, chats: ChatService, caller: Caller, which: ChatFilter, text: str | None, sources: Collection[str]
) -> ChatPage:
    """Return the chats of `which` whose owners have all words of `text` in their names or id; all if it is None.

    If that are more than `MOST_OWNERS` people, a page may have fewer chats than its limit and still have a next one.
    """
    if text is None:
        return await chats.chat_reader.chats(which)
    if not caller.is_operator:
        raise Problem("not_allowed", "only operators can search for people", path="q")
    people = await search_filter(
        access, chats, caller, text, SearchKind.PEOPLE, sources=sources, chat=None, before=None, limit=200
    )
    owners = await _owners(search_of(chats), people)
    if owners is not None:
        return await chats.chat_reader.chats(attrs.evolve(which, owners=owners))
    found: list[ChatState] = []
    page = ChatPage(())
    for _ in range(MOST_READS):
        page = await chats.chat_reader.chats(attrs.evolve(which, limit=which.limit - len(found)))
        found += [chat for chat in page.chats if are_found(people.words, names_of(chat.owner))]
        if page.next is None or len(found) == which.limit:
            break
        which = attrs.evolve(which, before=page.next)
    return ChatPage(tuple(found), page.next)


async def _owners(search: Search, which: SearchFilter) -> frozenset[int] | None:
    """Return the ids of the visitors that are found, None if they are more than `MOST_OWNERS`."""
    owners = set[int]()
    while True:
        found = await search.people(which)
        owners.update(user.id for user in found.people if user.role is Role.USER)
        if len(owners) > MOST_OWNERS:
            return None
        if found.next is None:
            return frozenset(owners)
        which = attrs.evolve(which, before=found.next)


async def search_filter(
    access: Access,
    chats: ChatService,
    caller: Caller,
    text: str | None,
    kind: SearchKind,
    *,
    sources: Collection[str],
    chat: UUID | None,
    before: int | None,
    limit: int,
) -> SearchFilter:
    """Return the filter of a search for `text` in `sources`, or in all that the caller has if empty, or in one chat.

    Raises Problem 400 for a text without words, 403 and 404 for what the caller may not see.
    """
    words = tuple(dict.fromkeys(words_of(text or "")))[:MAX_WORDS]
    if not words or len(text or "") > MAX_QUERY_CHARS:
        detail = f"expected at least one word, and at most {MAX_QUERY_CHARS} characters"
        raise Problem("malformed", f"q: {detail}", path="q", status=400)
    allowed: frozenset[str] | None = None
    own: frozenset[UUID] | None = None
    if caller.is_operator:
        allowed = access.sources(caller, sources)
    else:
        if kind is SearchKind.PEOPLE:
            raise Problem("not_allowed", "only operators can search for people", path="kind")
        for source in sources:
            access.check_source(source)
        which = ChatFilter(sources=frozenset(sources) or None, owner_id=caller.user.id, limit=MOST_OWN_CHATS)
        own = frozenset([each.uuid for each in (await chats.chat_reader.chats(which)).chats])
    if chat is not None:
        state = await access.chat(caller, chat)
        own = frozenset({state.uuid}) if own is None else own & {state.uuid}
    return SearchFilter(
        words=words,
        role=caller.user.role,
        kind=kind,
        sources=allowed,
        chats=own,
        before=before,
        limit=limit,
    )

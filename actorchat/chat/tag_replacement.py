"""Renames a tag in all chats that have it, or takes it away from them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import UUID

import attrs
import trio

from actorchat.chat.operations import ReplaceTag
from actorchat.chat.ports import ChatFilter
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.protocol import RefusalCode

__all__ = ["TagReplacement", "replace_tag"]

_AT_ONCE: Final = 16
"""Chats that are changed at a time, so that other operations need not wait for them."""

_PAGE: Final = 200

_TEMPORARY: Final = (RefusalCode.OVERLOADED, RefusalCode.STORAGE_UNAVAILABLE, "draining")


@attrs.frozen
class TagReplacement:
    """How many chats were changed. If it is not `complete`, others still have the tag."""

    chats: int
    complete: bool


async def replace_tag(
    chats: ChatService, sources: Collection[str], tag: str, into: str | None, seconds: float
) -> TagReplacement:
    """Replace `tag` by `into` in the chats of `sources`, or only take it away if `into` is None, for at most `seconds`.

    Doing it again continues. Raises `ChatRefused` and `StorageUnavailable`; chats that were changed before stay so.
    """
    changed = 0
    failed: ChatRefused | None = None

    async def change(chat: UUID) -> None:
        nonlocal changed, failed
        try:
            await chats.perform(ReplaceTag(chat, tag, into))
            changed += 1
        except ChatRefused as refused:
            # Without its message or deleted meanwhile, a chat has no tag.
            if refused.code in _TEMPORARY:
                failed = refused

    which: ChatFilter | None = ChatFilter(sources=frozenset(sources), tag=tag, limit=_PAGE)
    deadline = trio.current_time() + seconds
    while which is not None:
        page = await chats.chat_reader.chats(which)
        for start in range(0, len(page.chats), _AT_ONCE):
            async with trio.open_nursery() as nursery:
                for chat in page.chats[start : start + _AT_ONCE]:
                    nursery.start_soon(change, chat.uuid)
            if failed is not None:
                raise failed
            if trio.current_time() >= deadline:
                return TagReplacement(changed, complete=False)
        which = None if page.next is None else attrs.evolve(which, before=page.next)
    return TagReplacement(changed, complete=True)

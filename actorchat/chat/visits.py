"""Stores the pages that visitors view, and reads them for operators."""

from __future__ import annotations

from collections.abc import Callable

import trio

from actorchat.chat.documents import ChangeDocument, visit_of
from actorchat.chat.limits import Limits, RateLimiter, rate_limited
from actorchat.chat.model import ChatState, identity_of
from actorchat.chat.operations import Refused
from actorchat.chat.page_views import visitor_info, with_page
from actorchat.chat.ports import ChatReader, Session
from actorchat.chat.submitter import Submitter
from actorchat.protocol import PageContext, PageViewed, User, VisitorInfo

__all__ = ["PAGES", "Visits"]

PAGES = Limits(messages_per_second=0.5, burst=20)
"""How often `page_viewed` of one visitor is stored. More often is refused with `rate_limited`."""


class Visits:
    """Stores and reads the pages that visitors view.

    `clock` returns epoch seconds; `kept_parameters` stay in the pages' addresses.
    """

    def __init__(
        self,
        submitter: Submitter,
        chat_reader: ChatReader,
        clock: Callable[[], float],
        kept_parameters: frozenset[str],
    ) -> None:
        self._submitter = submitter
        self._chat_reader = chat_reader
        self._clock = clock
        self._kept_parameters = kept_parameters
        self._limiter = RateLimiter(PAGES)

    async def record(self, visitor: User, context: PageContext, address: str = "") -> None:
        """Store the page that a visitor views from a network address, unless it reports too many.

        Raises `ChatRefused`.
        """
        if self._limiter.take(identity_of(visitor), trio.current_time()):
            await trio.lowlevel.checkpoint()
            return
        await self._submitter.submit(self._change(visitor, context, address))

    def record_viewed(self, session: Session, viewed: PageViewed) -> Refused | None:
        """Store a page that the visitor of a socket views, or return why not. Does not wait."""
        wait = self._limiter.take(identity_of(session.user), trio.current_time())
        if wait:
            return rate_limited(wait)
        context = PageContext(url=viewed.url, title=viewed.title, referrer=viewed.referrer)
        return self._submitter.submit_unanswered(self._change(session.user, context, session.peer))

    def _change(self, visitor: User, context: PageContext, address: str) -> ChangeDocument:
        now, kept = self._clock(), self._kept_parameters
        return ChangeDocument(visit_of(visitor.id), lambda stored: with_page(stored, context, kept, now, address))

    async def owner_of(self, chat: ChatState, *, with_address: bool = False) -> VisitorInfo:
        """Return the owner of a chat with their pages, the network address only `with_address`.

        Raises `StorageUnavailable`.
        """
        key = visit_of(chat.owner.id)
        found = await self._chat_reader.documents(key.kind, key.scope)
        return visitor_info(chat.owner, found[0][1] if found else None, with_address=with_address)

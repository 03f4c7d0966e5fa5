"""Reads again the records of people that other nodes have changed, and shows them here.

Records have no revision, so two nodes' changes of one record can't be ordered by what the log says of them. Storage
has the newest one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs
import trio

from actorchat.chat.model import Identity, PersonRecord
from actorchat.chat.ports import ChatReader, StorageUnavailable

__all__ = ["ForeignPeople", "PersonNews"]

RETRY: Final = 0.5
"""Seconds before storage is read again after a failure."""

RECENT: Final = 10.0
"""Seconds for which an outcome of this node may be older than a record that was read."""


@attrs.define
class PersonNews:
    """The kind of a change. `signed_out`: tokens have become worthless. `renamed`: the profile has changed."""

    signed_out: bool = False
    renamed: bool = False

    def add(self, news: PersonNews) -> None:
        self.signed_out = self.signed_out or news.signed_out
        self.renamed = self.renamed or news.renamed


class ForeignPeople:
    """Calls `show` with the newest record of each person that another node has changed."""

    def __init__(self, chat_reader: ChatReader, show: Callable[[PersonRecord, PersonNews], object]) -> None:
        self._chat_reader = chat_reader
        self._show = show
        self._due: OrderedDict[Identity, PersonNews] = OrderedDict()
        self._reading: Identity | None = None
        self._shown_at: OrderedDict[Identity, float] = OrderedDict()
        self._wake = trio.Event()

    def changed_elsewhere(self, identity: Identity, news: PersonNews) -> None:
        """Read that record, and show it."""
        self._due.setdefault(identity, PersonNews()).add(news)
        self._wake.set()

    def changed_here(self, identity: Identity) -> None:
        """An outcome of this node shows a record. If a newer one may have been shown before it, read it again."""
        if identity == self._reading or identity in self._shown_at:
            self.changed_elsewhere(identity, PersonNews(renamed=True))

    async def run(self) -> None:
        """Read what is due, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._due:
                self._forget()
                identity, news = self._due.popitem(last=False)
                await self._refresh(identity, news)

    async def _refresh(self, identity: Identity, news: PersonNews) -> None:
        self._reading = identity
        try:
            record = await self._chat_reader.person(identity)
        except StorageUnavailable:
            self.changed_elsewhere(identity, news)
            await trio.sleep(RETRY)
            return
        finally:
            self._reading = None
        if identity in self._due:
            # It has changed while it was read.
            self._due[identity].add(news)
            return
        self._shown_at.pop(identity, None)
        self._shown_at[identity] = trio.current_time()
        if record is not None:
            self._show(record, news)

    def _forget(self) -> None:
        now = trio.current_time()
        while self._shown_at and next(iter(self._shown_at.values())) < now - RECENT:
            self._shown_at.popitem(last=False)

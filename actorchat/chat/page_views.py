"""Keeps the pages that a visitor has viewed in a bounded document. Pure functions without IO."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import attrs
import msgspec

from actorchat.chat.blocks import normal_address
from actorchat.protocol import PageContext, PageView, VisitorInfo, wire_time
from actorchat.protocol.entities import User

__all__ = ["cleaned_url", "has_taken_over", "taken_over", "visitor_info", "with_page"]

MAX_PAGES: Final = 30
"""Pages of one visitor. With one more, the oldest is forgotten."""

_MAX_VISITORS: Final = 100
"""Anonymous visitors whose chats somebody has got, and for whom a repeated hand-over is answered like the first."""

_MAX_URL: Final = 1_000
_MAX_TITLE: Final = 200


@attrs.frozen(slots=False)
class _Visit:
    language: str = ""
    timezone: str = ""
    pages: tuple[PageView, ...] = ()
    address: str = ""
    visitors: tuple[int, ...] = ()


def cleaned_url(url: str, kept: Collection[str]) -> str:
    """The address without user name, password and fragment, and with the query parameters in `kept` only.

    Empty if it is not an address of a page. Query strings often have personal data and secrets.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
        query = [pair for pair in parse_qsl(parts.query, max_num_fields=200) if pair[0] in kept]
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not host:
        return ""
    host = f"[{host}]" if ":" in host else host
    authority = host if port is None else f"{host}:{port}"
    return urlunsplit((parts.scheme, authority, parts.path, urlencode(query), ""))[:_MAX_URL]


def with_page(stored: str | None, context: PageContext, kept: Collection[str], now: float, address: str = "") -> str:
    """The document after the visitor has viewed a page at `now`, in epoch seconds. `stored` is the document before.

    `address` is the visitor's network address; what is no address, such as a Unix socket, is not kept. A page that is
    viewed again right after itself only gets the new time and title.
    """
    visit = _read(stored)
    pages = visit.pages
    url = cleaned_url(context.url, kept)
    if url:
        page = PageView(url, context.title[:_MAX_TITLE], cleaned_url(context.referrer, kept), wire_time(int(now)))
        if pages and pages[-1].url == url:
            page = attrs.evolve(page, referrer=pages[-1].referrer)
            pages = pages[:-1]
        pages = (*pages, page)[-MAX_PAGES:]
    parsed = normal_address(address)
    after = _Visit(
        context.language or visit.language,
        context.timezone or visit.timezone,
        pages,
        visit.address if parsed is None else str(parsed),
        visit.visitors,
    )
    return msgspec.json.encode(after).decode()


def taken_over(stored: str | None, visitor: int, theirs: str | None) -> str:
    """The document `stored` after its user has got the chats and the pages, `theirs`, of an anonymous visitor."""
    visit, other = _read(stored), _read(theirs)
    pages = sorted((*visit.pages, *other.pages), key=lambda page: page.time)[-MAX_PAGES:]
    after = _Visit(
        other.language or visit.language,
        other.timezone or visit.timezone,
        tuple(pages),
        other.address or visit.address,
        (*visit.visitors, *other.visitors, visitor)[-_MAX_VISITORS:],
    )
    return msgspec.json.encode(after).decode()


def has_taken_over(stored: str | None, visitor: int) -> bool:
    """Whether the document says that its user has got the chats of that anonymous visitor."""
    return visitor in _read(stored).visitors


def _read(stored: str | None) -> _Visit:
    return _Visit() if stored is None else msgspec.json.decode(stored, type=_Visit)


def visitor_info(user: User, stored: str | None, *, with_address: bool = False) -> VisitorInfo:
    """Read the context of `user` from its document, the network address only `with_address`."""
    visit = _read(stored)
    address = (visit.address or None) if with_address else None
    return VisitorInfo(user, visit.language, visit.timezone, visit.pages[::-1], address)

"""Defines what the HTTP API tells widgets and consoles besides the contract's entities."""

from typing import Annotated
from uuid import UUID

import attrs
from msgspec import Meta

from actorchat.protocol.entities import SafeInt, User, WireTime

MAX_REPLY_CHARS = 4_000
"""The largest length of a saved reply, in characters."""

_Title = Annotated[str, Meta(max_length=80)]
_Language = Annotated[str, Meta(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}\Z")]
_Address = Annotated[str, Meta(max_length=2_000, pattern=r"^(https?://[^\s/?#]+([/?#]\S*)?)?\Z")]


@attrs.frozen(slots=False, kw_only=True)
class WidgetConfig:
    """The configuration of a source's widget. Empty values mean the widget's own defaults.

    ``questions`` are suggested to visitors, ``accent`` is a colour like ``#0b6e7f``. ``answer_seconds`` is how fast the
    team intends to answer, None if it doesn't say.
    """

    title: _Title = ""
    greeting: Annotated[str, Meta(max_length=500)] = ""
    questions: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=120)], ...], Meta(max_length=6)] = ()
    accent: Annotated[str, Meta(pattern=r"^(#[0-9a-fA-F]{6})?\Z")] = ""
    privacy_url: _Address = ""
    languages: Annotated[tuple[_Language, ...], Meta(max_length=40)] = ()
    answer_seconds: Annotated[int, Meta(ge=1, le=2_592_000)] | None = None


@attrs.frozen(slots=False)
class TeamMember:
    """An operator of a source as everybody may see them."""

    name: str
    avatar: str
    online: bool


@attrs.frozen(slots=False)
class FileLimits:
    """The files that a source accepts: at most ``size`` bytes each and ``number`` in a message.

    ``types`` are ``image``, ``video``, ``audio``, ``file``, ``program`` and media types.
    """

    size: SafeInt
    number: SafeInt
    types: tuple[str, ...]


@attrs.frozen(slots=False)
class WidgetInfo:
    """The content of a widget before anybody has written. ``online``: somebody is there to answer now."""

    source: str
    config: WidgetConfig
    online: bool
    team: tuple[TeamMember, ...]
    text_length: SafeInt
    files: FileLimits


@attrs.frozen(slots=False)
class SavedReply:
    """A text that operators insert into messages. ``source`` is None for an operator's personal one."""

    id: UUID
    source: str | None
    title: str
    text: str
    shortcut: str


@attrs.frozen(slots=False, kw_only=True)
class PageContext:
    """The page that a visitor views, and the visitor's language and IANA time zone. Everything may be empty."""

    url: Annotated[str, Meta(max_length=8_192)] = ""
    title: Annotated[str, Meta(max_length=1_024)] = ""
    referrer: Annotated[str, Meta(max_length=8_192)] = ""
    language: Annotated[str, Meta(max_length=35, pattern=r"^[A-Za-z0-9-]*\Z")] = ""
    timezone: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_+/-]*\Z")] = ""


@attrs.frozen(slots=False)
class PageView:
    """A page that a visitor has viewed, and when."""

    url: str
    title: str
    referrer: str
    time: WireTime


@attrs.frozen(slots=False)
class VisitorInfo:
    """The owner of a chat, with the pages they viewed. ``pages`` are the latest ones, the newest first.

    ``address`` is the network address of the latest page view; None if it is unknown, and for operators without the
    rights of a supervisor.
    """

    user: User
    language: str
    timezone: str
    pages: tuple[PageView, ...]
    address: str | None = None

"""Puts links to files into messages: encoded once with placeholders, and filled in for each reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

from actorchat.chat.model import Identity, StoredAttachment
from actorchat.protocol import Attachment, Frames, attachments_fragment

__all__ = ["TICKET_CHARS", "Links", "attachments_for", "fill_links", "unfilled_attachments"]

TICKET_CHARS: Final = 40
"""The length of every ticket: a placeholder of the same length leaves the frames around it as they are."""

# No UTF-8 text holds this byte, so nothing that people write looks like a placeholder.
_PLACEHOLDER: Final = b"\xff" * TICKET_CHARS
_STAND_IN: Final = "\x01" * TICKET_CHARS
# How msgspec writes the stand-in. File names have no control characters, so only links contain it.
_ENCODED_STAND_IN: Final = b"\\u0001" * TICKET_CHARS
_UNFILLED: Final = re.compile(rb"([0-9a-f-]{36})(?:/preview)?\?ticket=(" + _PLACEHOLDER + rb")")


class Links(Protocol):
    """Signs links to files. `base` is what comes before the path in them: an origin, or nothing."""

    @property
    def base(self) -> str: ...

    def ticket(self, file: UUID, reader: Identity) -> str:
        """Make a ticket with which `reader` may read `file` for a while.

        It has `TICKET_CHARS` characters of A-Z, a-z, 0-9, `-` and `_`.
        """


def attachments_for(files: Sequence[StoredAttachment], reader: Identity, links: Links) -> tuple[Attachment, ...]:
    """The files as the contract shows them to `reader`."""
    return tuple(_attachment(file, links.ticket(file.uuid, reader), links.base) for file in files)


def unfilled_attachments(files: Sequence[StoredAttachment], links: Links) -> bytes:
    """The JSON of the files for any reader: `fill_links` puts the reader's tickets into the frames it ends up in."""
    encoded = attachments_fragment(tuple(_attachment(file, _STAND_IN, links.base) for file in files))
    return encoded.replace(_ENCODED_STAND_IN, _PLACEHOLDER)


def fill_links(frames: Frames, reader: Identity, links: Links) -> Frames:
    """The frames as `reader` gets them. Nothing else in them changes, their lengths included."""

    def fill(unfilled: re.Match[bytes]) -> bytes:
        file = UUID(unfilled[1].decode())
        return unfilled[0][:-TICKET_CHARS] + links.ticket(file, reader).encode()

    return Frames(_UNFILLED.sub(fill, frames.data), frames.ends, frames.typing)


def _attachment(file: StoredAttachment, ticket: str, base: str) -> Attachment:
    url = f"{base}/api/attachments/{file.uuid}"
    return Attachment(
        uuid=file.uuid,
        type=file.type,
        url=f"{url}?ticket={ticket}",
        url_preview=f"{url}/preview?ticket={ticket}" if file.preview_size else "",
        filename=file.filename,
        extension=file.extension,
        size=file.size,
    )

"""Signs links to files, each for one reader and a short time."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct
from typing import Final
from uuid import UUID

from actorchat.chat.model import Identity
from actorchat.protocol import Role

__all__ = ["BadTicket", "SignedLinks"]

# The reader's id with the role in its lowest bit, and the end in epoch seconds.
_CLAIMS: Final = Struct(">qI")
_MAC_BYTES: Final = 18
_TICKET_BYTES: Final = _CLAIMS.size + _MAC_BYTES


class BadTicket(Exception):  # noqa: N818 - a property of the ticket
    """The ticket has expired, is for another file, or was not signed by this server. The text says which."""


class SignedLinks:
    """Signs and checks tickets (`actorchat.chat.links.Links`).

    `key` is secret. A ticket is valid for at least `seconds` and at most twice as long. Within a period of `seconds` a
    reader gets the same ticket for the same file, so that browsers find the file in their caches. `clock` returns epoch
    seconds.
    """

    def __init__(self, key: bytes, clock: Callable[[], float], *, seconds: float, base: str = "") -> None:
        self.base = base
        self._key = key
        self._clock = clock
        self._seconds = max(1, int(seconds))

    def ticket(self, file: UUID, reader: Identity) -> str:
        """Sign that `reader` may read `file`."""
        until = (int(self._clock()) // self._seconds + 2) * self._seconds
        claims = _CLAIMS.pack(reader.id << 1 | (reader.role is Role.OPERATOR), until)
        return urlsafe_b64encode(claims + self._mac(file, claims)).decode()

    def check(self, file: UUID, ticket: str) -> tuple[Identity, float]:
        """Return who may read `file` with `ticket`, and until when in epoch seconds. Raises `BadTicket`."""
        try:
            decoded = urlsafe_b64decode(ticket.encode("ascii"))
        except ValueError:
            decoded = b""
        # Decoding ignores characters that are not base64, so compare with the encoded result.
        if len(decoded) != _TICKET_BYTES or urlsafe_b64encode(decoded).decode() != ticket:
            raise BadTicket("this is no ticket")
        claims, mac = decoded[: _CLAIMS.size], decoded[_CLAIMS.size :]
        if not hmac.compare_digest(mac, self._mac(file, claims)):
            raise BadTicket("the ticket is not for this file, or not of this server")
        numbered, until = _CLAIMS.unpack(claims)
        if until <= self._clock():
            raise BadTicket("the link has expired")
        return Identity(Role.OPERATOR if numbered & 1 else Role.USER, numbered >> 1), until

    def _mac(self, file: UUID, claims: bytes) -> bytes:
        return blake2b(file.bytes + claims, digest_size=_MAC_BYTES, key=self._key, person=b"actorchat file").digest()

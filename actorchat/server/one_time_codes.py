"""Issues codes that sign in once, and redeems them, also on another server with the same secret and storage."""

from __future__ import annotations

import hashlib
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from hmac import compare_digest
from typing import Final

import attrs

from actorchat.chat.documents import DocumentKey, DocumentKind
from actorchat.chat.service import ChatService

__all__ = ["CODE_SECONDS", "OneTimeCode", "OneTimeCodes"]

CODE_SECONDS: Final = 900.0
"""How long a code is valid."""

_CONTENT: Final = struct.Struct(">16sdq")
"""A random number, when the code expires, and the operator's id or `_ANYBODY`."""

_ANYBODY: Final = -1
_TAG_BYTES: Final = 16


@attrs.frozen
class OneTimeCode:
    """The purpose of a code: to sign in to the account of `operator_id`, or an administrator's if None.

    `expires` is in epoch seconds.
    """

    operator_id: int | None
    expires: float


class OneTimeCodes:
    """Codes that are signed with `key`. Storage has those that were used and have not expired yet.

    `clock` returns epoch seconds.
    """

    def __init__(self, chats: ChatService, key: bytes, clock: Callable[[], float]) -> None:
        self._chats = chats
        self._key = key
        self._clock = clock

    def issue(self, operator_id: int | None = None) -> str:
        """Return a new code for the account of that operator, or for an administrator's."""
        id_ = _ANYBODY if operator_id is None else operator_id
        content = _CONTENT.pack(secrets.token_bytes(16), self._clock() + CODE_SECONDS, id_)
        return urlsafe_b64encode(content + self._tag(content)).decode()

    async def redeem(self, code: str) -> OneTimeCode | None:
        """Return what the code is for, and end it. None if it is not valid, used or expired.

        Raises `actorchat.chat.service.ChatRefused` if storage is away; then the code was not used.
        """
        content = self._verified(code)
        if content is None:
            return None
        number, expires, id_ = _CONTENT.unpack(content)
        if expires <= self._clock():
            return None
        await self._forget_expired()
        # Two requests with one code, perhaps to two servers: only the one whose use is stored gets it.
        use = f"{expires} {secrets.token_hex(8)}"
        stored = await self._chats.change_document(_key(number.hex()), lambda used: use if used is None else used)
        return OneTimeCode(None if id_ == _ANYBODY else id_, expires) if stored == use else None

    def _verified(self, code: str) -> bytes | None:
        """The content of a code that was signed with the key, None for any other text."""
        try:
            signed = urlsafe_b64decode(code.encode("ascii"))
        except (UnicodeEncodeError, Base64Error, ValueError):
            return None
        content, tag = signed[: _CONTENT.size], signed[_CONTENT.size :]
        return content if len(content) == _CONTENT.size and compare_digest(tag, self._tag(content)) else None

    async def _forget_expired(self) -> None:
        now = self._clock()
        for name, use in await self._chats.chat_reader.documents(DocumentKind.CODE, ""):
            if float(use.partition(" ")[0]) <= now:
                await self._chats.change_document(_key(name), lambda used: None)

    def _tag(self, content: bytes) -> bytes:
        return hashlib.blake2b(content, key=self._key, digest_size=_TAG_BYTES).digest()


def _key(number: str) -> DocumentKey:
    """The document that says that the code with this number was used."""
    return DocumentKey(DocumentKind.CODE, "", number)

"""Hashes and verifies passwords with argon2id, in a thread."""

from __future__ import annotations

import secrets
import unicodedata
from typing import Final

import argon2
import trio

from actorchat.http.problems import Problem

__all__ = [
    "MAX_PASSWORD",
    "MIN_PASSWORD",
    "InvalidPassword",
    "Passwords",
    "check_password",
    "hash_password",
    "new_one_time_password",
]

MIN_PASSWORD: Final = 8
MAX_PASSWORD: Final = 1024
"""Characters of a password."""

_AT_ONCE: Final = 1
"""Hashes computed at once. One keeps a core free for the sockets, whatever arrives."""

_MAX_WAITING: Final = 32
"""Verifications that wait for their turn. Further ones are refused."""

_READABLE: Final = "abcdefghjkmnpqrstuvwxyz23456789"

# 19 MiB, two passes and one lane are OWASP's first choice for argon2id. A hash takes about 30 ms.
_hasher: Final = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class InvalidPassword(ValueError):  # noqa: N818 - describes a value
    """The password can't be used for an account. The text says why."""


def check_password(password: str) -> None:
    """Raise InvalidPassword if no account may have this password."""
    length = len(_normal(password))
    if length < MIN_PASSWORD:
        raise InvalidPassword(f"a password has at least {MIN_PASSWORD} characters")
    if length > MAX_PASSWORD:
        raise InvalidPassword(f"a password has at most {MAX_PASSWORD} characters")


def hash_password(password: str) -> str:
    """Return the hash of a password. Blocks for about 30 ms."""
    return _hasher.hash(_normal(password))


def new_one_time_password() -> str:
    """Return a random password of 79 bits. No character looks like another one."""
    return "-".join("".join(secrets.choice(_READABLE) for _ in range(4)) for _ in range(4))


def _normal(password: str) -> str:
    # Keyboards and systems differ in how they compose characters.
    return unicodedata.normalize("NFKC", password)


class Passwords:
    """Verifies passwords in a thread of its own, one after the other."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_AT_ONCE)
        self._waiting = 0
        # Verified instead of a missing hash, so that an unknown login takes as long as a wrong password.
        self._decoy: str | None = None

    async def verify(self, password: str, stored: str) -> bool:
        """Return whether the hash `stored` is that of `password`. Takes the same time if `stored` is empty.

        Raises Problem 503 if too many verifications wait.
        """
        if self._waiting >= _MAX_WAITING:
            raise Problem("overloaded", "too many people sign in at the moment", retry_after=2.0)
        self._waiting += 1
        try:
            return await trio.to_thread.run_sync(self._verify, password, stored, limiter=self._limiter)
        finally:
            self._waiting -= 1

    async def hash(self, password: str) -> str:
        """Return the hash of a password."""
        return await trio.to_thread.run_sync(hash_password, password, limiter=self._limiter)

    async def rehash(self, password: str, stored: str) -> str | None:
        """Return a new hash of `password` if `stored` was made with other parameters than today's, else None."""
        if not _hasher.check_needs_rehash(stored):
            return None
        return await self.hash(password)

    def _verify(self, password: str, stored: str) -> bool:
        if self._decoy is None:
            self._decoy = hash_password(secrets.token_urlsafe())
        normal = _normal(password)
        try:
            _hasher.verify(stored or self._decoy, normal if len(normal) <= MAX_PASSWORD else "")
        except argon2.exceptions.VerifyMismatchError:
            return False
        return bool(stored)

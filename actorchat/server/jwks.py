"""Fetches the JSON Web Key Set of a site's identity provider, every hour and when a token has an unknown key."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from json import JSONDecodeError
from math import inf
from typing import Final

import trio

from actorchat.server.keys import InvalidKeySet, PublicKey, read_key_set

__all__ = ["MAX_BYTES", "RETRY_SECONDS", "KeySet"]

RETRY_SECONDS: Final = 60.0
"""The least time between two requests, whatever tokens arrive."""

REFRESH_SECONDS: Final = 3600.0
"""The time after which the key set is fetched again in any case, so that a withdrawn key is not used for long."""

FETCH_SECONDS: Final = 10.0
MAX_BYTES: Final = 262_144

_log: Final = logging.getLogger("actorchat.server")


class _FetchFailed(Exception):  # noqa: N818 - says what happened
    """The key set could not be fetched. The text says why."""


class KeySet:
    """The key set at `url`, None for none. `use` is called with its keys whenever they were fetched.

    While it can't be fetched, the keys that are known stay in use.
    """

    def __init__(self, url: str | None, use: Callable[[tuple[PublicKey, ...] | None], object]) -> None:
        self._url = url
        self._use = use
        self._tried_at = -inf
        self._lock = trio.Lock()
        self._moved = trio.Event()

    def follow(self, url: str | None) -> None:
        """Use the key set at `url` instead, and forget the keys of the previous one. Does nothing if it is the same.

        `use` is called at once, with no keys, or with None if there is no key set any more.
        """
        if url == self._url:
            return
        self._url = url
        self._tried_at = -inf
        self._use(None if url is None else ())
        self._moved.set()

    def may_refresh(self) -> bool:
        """Whether a token with an unknown key is a reason to fetch the key set now, or it is being fetched."""
        return self._is_due() or (self._url is not None and self._lock.locked())

    async def refresh(self) -> None:
        """Fetch the key set, unless that was tried less than a minute ago. Errors are logged."""
        async with self._lock:
            # Again if it has moved meanwhile.
            while self._is_due():
                await self._fetch_and_use()

    async def watch(self) -> None:
        """Fetch the key set now and every hour, until cancelled. After an error it is tried again every minute."""
        while True:
            self._moved = trio.Event()
            async with self._lock:
                fetched = await self._fetch_and_use()
            with trio.move_on_after(REFRESH_SECONDS if fetched else RETRY_SECONDS):
                await self._moved.wait()

    def _is_due(self) -> bool:
        return self._url is not None and trio.current_time() - self._tried_at >= RETRY_SECONDS

    async def _fetch_and_use(self) -> bool:
        url = self._url
        if url is None:
            return True
        self._tried_at = trio.current_time()
        try:
            with trio.fail_after(FETCH_SECONDS):
                keys = await self._fetch(url)
        except (_FetchFailed, InvalidKeySet) as error:
            _log.error("the keys at %s can't be used: %s; the known keys stay in use", url, error)
            return False
        except trio.TooSlowError:
            _log.error("the keys at %s can't be fetched within %.0f s", url, FETCH_SECONDS)
            return False
        if url == self._url:
            self._use(keys)
        return True

    async def _fetch(self, url: str) -> tuple[PublicKey, ...]:
        # In a thread, because reading the system's certificates takes too long for the event loop.
        body = await trio.to_thread.run_sync(_download, url, abandon_on_cancel=True)
        try:
            return read_key_set(json.loads(body))
        except (JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise _FetchFailed("the answer is not JSON") from None


def _download(url: str) -> bytes:
    """Return the body at `url`. Blocks for at most about twice `FETCH_SECONDS`, also if the answer arrives slowly."""
    import httpx

    end = time.monotonic() + FETCH_SECONDS
    body = bytearray()
    try:
        with (
            httpx.Client(timeout=FETCH_SECONDS, follow_redirects=False) as client,
            client.stream("GET", url, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise _FetchFailed(f"the answer has the status {answer.status_code}")
            for part in answer.iter_bytes():
                body += part
                if len(body) > MAX_BYTES:
                    raise _FetchFailed(f"the answer has more than {MAX_BYTES} bytes")
                if time.monotonic() > end:
                    raise _FetchFailed("the answer arrives too slowly")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _FetchFailed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None
    return bytes(body)

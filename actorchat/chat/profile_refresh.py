"""Republishes the active chats of a user whose profile has changed, one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from actorchat.actors import Actor
from actorchat.chat.model import identity_of
from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import User

__all__ = ["ProfileRefresher", "Renamed"]

RETRY = 1.0
"""Seconds before the next attempt if storage was unavailable."""


@attrs.frozen
class Renamed:
    """The profile of `user` has changed to this one."""

    user: User


class ProfileRefresher(Actor[Renamed]):
    """Calls `republish(user)` for each changed profile, which publishes all active chats of that user again.

    If it raises `StorageUnavailable`, it is called again every second until it succeeds.
    """

    def __init__(self, republish: Callable[[User], Awaitable[object]]) -> None:
        self._republish = republish

    async def receive(self, message: Renamed) -> None:
        try:
            await self._republish(message.user)
        except StorageUnavailable:
            self.after(RETRY, message, key=identity_of(message.user))

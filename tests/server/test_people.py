"""Who is remembered of the people whom tokens name."""

from __future__ import annotations

import pytest
import trio

from actorchat.protocol import Role, User
from actorchat.server import people as people_module
from actorchat.server.auth import Claims
from actorchat.server.people import People
from tests.chat.world import open_world


def claims_of(number: int) -> Claims:
    return Claims(User(number, Role.USER), frozenset(), None, 9e9)


def is_remembered(people: People, number: int) -> bool:
    try:
        people.record_nowait(claims_of(number))
    except trio.WouldBlock:
        return False
    return True


async def test_who_comes_back_without_waiting_is_not_the_first_to_be_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(people_module, "_REMEMBERED", 2)
    async with open_world() as world:
        people = People(world.chats)
        await people.record(claims_of(1))
        await people.record(claims_of(2))
        assert is_remembered(people, 1)
        await people.record(claims_of(3))
        assert (is_remembered(people, 1), is_remembered(people, 2)) == (True, False)

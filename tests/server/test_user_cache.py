"""The cache of users whose tokens were used."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat.accounts import SignOut
from actorchat.chat.model import Identity
from actorchat.protocol import Role, User
from actorchat.server import user_cache as people_module
from actorchat.server.auth import BadToken, Claims, Tokens
from actorchat.server.user_cache import UserCache
from tests.chat.harness import open_chat


def claims_of(number: int) -> Claims:
    return Claims(User(number, Role.USER), frozenset(), None, 9e9)


def is_remembered(people: UserCache, number: int) -> bool:
    try:
        people.record_nowait(claims_of(number))
    except trio.WouldBlock:
        return False
    return True


async def test_the_user_cache_keeps_recently_used_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(people_module, "_MAX_CACHED", 2)
    async with open_chat() as harness:
        people = UserCache(harness.chats)
        await people.record(claims_of(1))
        await people.record(claims_of(2))
        assert is_remembered(people, 1)
        await people.record(claims_of(3))
        assert (is_remembered(people, 1), is_remembered(people, 2)) == (True, False)


async def test_a_sign_out_is_known_after_its_record_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_module, "_MAX_CACHED", 1)
    async with open_chat() as harness:
        people = UserCache(harness.chats)
        await harness.chats.people.decide_on_account(SignOut(User(1, Role.USER), 1_000.0))
        await people.record(claims_of(2))
        # An upgrade that was authorized before the sign-out asks again at its end.
        with pytest.raises(BadToken, match="signed out"):
            people.check_current(User(1, Role.USER), 999.0)
        people.check_current(User(1, Role.USER), 1_001.0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_of_two_profiles_that_are_recorded_at_once_the_newer_one_is_shown(
    order: tuple[int, int], autojump_clock: MockClock
) -> None:
    moment = [1000.0]
    judge = Tokens("a-secret-of-thirty-two-bytes-or-more", now=lambda: moment[0])
    tokens = []
    for name in ("Ann", "Anna"):
        moment[0] += 0.5
        tokens.append(judge.issue(User(7, Role.USER, firstname=name), (), 60))
    async with open_chat() as harness:
        people = UserCache(harness.chats, clock=lambda: moment[0])
        async with trio.open_nursery() as nursery:
            for which in order:
                nursery.start_soon(people.record, judge.verify(tokens[which]))
        for token in tokens:
            assert people.record_nowait(judge.verify(token)).user.firstname == "Anna"
        stored = await harness.chats.chat_reader.person(Identity(Role.USER, 7))
        assert stored is not None
        assert stored.user.firstname == "Anna"

"""How the use of a token changes the stored record of a person."""

from __future__ import annotations

from collections.abc import Collection

import attrs
import pytest

from actorchat.chat.model import PersonRecord, endless
from actorchat.chat.operations import RecordPerson
from actorchat.chat.person_records import MEMBERSHIP_SLACK, SUPERSEDED_KEPT, record_person
from actorchat.protocol import Role, User
from tests.chat.people import ANNA, OLGA

NOW = 1_000


def test_claims_win_and_what_a_token_omits_keeps_what_is_stored() -> None:
    stored = PersonRecord(attrs.evolve(OLGA, avatar="/o.png"), endless({"lk"}), online=True)
    claims = User(OLGA.id, Role.OPERATOR, firstname="Olya")
    person = record_person(stored, RecordPerson(claims, frozenset({"firstname"}), frozenset({"shop"})), NOW)
    assert (person.user.firstname, person.user.avatar) == ("Olya", "/o.png")
    assert (person.sources(NOW), person.online) == (frozenset({"lk", "shop"}), True)


def test_a_token_that_names_no_sources_leaves_the_stored_ones() -> None:
    stored = PersonRecord(OLGA, endless({"lk"}))
    assert record_person(stored, RecordPerson(User(OLGA.id, Role.OPERATOR), frozenset()), NOW) == stored


def token(
    name: str, token: str = "", issued: float | None = None, sources: Collection[str] = (), until: int = NOW + 1000
) -> RecordPerson:
    """The operation for the use of a token of Olga with that name."""
    user = attrs.evolve(OLGA, firstname=name)
    return RecordPerson(user, frozenset({"firstname"}), frozenset(sources), until, token, issued)


def used(*operations: RecordPerson, stored: PersonRecord | None = None) -> PersonRecord:
    """Olga's record after the use of these tokens, one a second."""
    for now, operation in enumerate(operations, NOW):
        stored = record_person(stored, operation, now)
    assert stored is not None
    return stored


def test_an_operator_belongs_to_a_source_until_the_last_token_that_names_it_ends() -> None:
    person = used(
        token("Olga", sources={"lk"}, until=NOW + 100),
        token("Olga", sources={"shop"}, until=NOW + 500),
        token("Olga", sources={"lk"}, until=NOW + 60),
    )
    assert person.sources(NOW + 99) == {"lk", "shop"}
    assert person.sources(NOW + 100 + MEMBERSHIP_SLACK) == {"shop"}
    assert used(token("Olga"), stored=person).memberships == person.memberships
    assert record_person(person, token("Olga"), NOW + 200).memberships.keys() == {"shop"}


def test_a_visitor_belongs_to_no_source() -> None:
    operation = RecordPerson(ANNA, frozenset({"firstname"}), frozenset({"lk"}), NOW + 60)
    assert record_person(None, operation, NOW) == PersonRecord(ANNA)


@pytest.mark.parametrize(
    "dates", [(NOW - 60.0, NOW - 30.0), (None, None), (NOW - 30.0, NOW - 30.0), (None, NOW + 30.0)]
)
def test_an_older_token_does_not_restore_its_profile(dates: tuple[float | None, float | None]) -> None:
    older, newer = token("Olga", "a", dates[0]), token("Olya", "b", dates[1])
    person = used(older, newer)
    assert person.user.firstname == "Olya"
    assert used(older, newer, older, stored=person) == person


def test_an_older_token_that_is_used_later_changes_only_memberships() -> None:
    person = used(token("Olya", "b", NOW - 30.0), token("Olga", "a", NOW - 60.0, {"lk"}))
    assert (person.user.firstname, person.sources(NOW)) == ("Olya", frozenset({"lk"}))


def test_among_undated_tokens_the_one_first_used_last_wins() -> None:
    tokens = [token(str(n), str(n)) for n in range(SUPERSEDED_KEPT + 2)]
    person = used(*tokens)
    for each in tokens[1:]:
        assert record_person(person, each, NOW + 100) == person
    assert len(person.superseded) == SUPERSEDED_KEPT
    # The number of remembered tokens is bounded, and expired ones are dropped.
    later = record_person(person, token("last", "last"), NOW + 1000)
    assert later.superseded == {tokens[-1].token: NOW + 1000}


def test_a_token_with_the_stored_claims_changes_nothing() -> None:
    person = used(token("Olga", "a", NOW - 60.0))
    assert used(token("Olga", "b", NOW - 30.0), stored=person) == person

"""Decides what the use of a token changes in what is stored of a person. Pure functions, no IO, no clock."""

from __future__ import annotations

from typing import Final

import attrs

from actorchat.chat.model import ENDLESS, PersonRecord, ProfileToken
from actorchat.chat.operations import RecordPerson
from actorchat.protocol import Role

__all__ = ["MEMBERSHIP_SLACK", "SUPERSEDED_KEPT", "record_person"]

MEMBERSHIP_SLACK: Final = 10
"""Seconds that a membership lasts beyond its token: several tokens of one moment are stored once."""

SUPERSEDED_KEPT: Final = 8
"""Older tokens without a date that are remembered of one person."""


def record_person(stored: PersonRecord | None, operation: RecordPerson, now: float) -> PersonRecord:
    """The person after the use of a token at `now`; equal to `stored` if the token says nothing new.

    Memberships add up, each until the end of the last token that names the source. Of profiles the newest token's wins,
    and what it omits stays as it is. Tokens are ordered by when they were issued, those that don't say so by their
    first use. A dated token that claims what is stored anyway leaves that order as it is.
    """
    person = stored or PersonRecord(operation.user)
    memberships = _memberships(person, operation, now)
    if memberships != person.memberships:
        person = attrs.evolve(person, memberships=memberships)
    if not operation.claimed or not _is_newer(person, operation):
        return person
    user = attrs.evolve(person.user, **{name: getattr(operation.user, name) for name in operation.claimed})
    current = person.profile
    if not operation.token or (user == person.user and current is not None and operation.issued is not None):
        return attrs.evolve(person, user=user)
    at = operation.issued if operation.issued is not None else max(now, current.at if current is not None else now)
    superseded = {token: until for token, until in person.superseded.items() if until > now}
    if current is not None and (not current.dated or current.at == at):
        superseded[current.token] = current.until
        for token in list(superseded)[:-SUPERSEDED_KEPT]:
            del superseded[token]
    profile = ProfileToken(operation.token, at, operation.until, operation.issued is not None)
    return attrs.evolve(person, user=user, profile=profile, superseded=superseded)


def _memberships(person: PersonRecord, operation: RecordPerson, now: float) -> dict[str, int]:
    memberships = {source: until for source, until in person.memberships.items() if until > now}
    if person.user.role is Role.OPERATOR:
        for source in operation.sources or ():
            if operation.until > memberships.get(source, 0):
                memberships[source] = min(operation.until + MEMBERSHIP_SLACK, ENDLESS)
    return memberships


def _is_newer(person: PersonRecord, operation: RecordPerson) -> bool:
    """Whether the operation's profile is newer than the stored one."""
    current = person.profile
    if not operation.token or current is None:
        return True
    if operation.token == current.token or operation.token in person.superseded:
        return False
    return operation.issued is None or operation.issued >= current.at

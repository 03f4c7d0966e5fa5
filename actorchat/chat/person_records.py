"""Computes how the use of a token changes the stored record of a person. Pure functions without IO or a clock."""

from __future__ import annotations

from typing import Final

import attrs

from actorchat.chat.model import ENDLESS, PersonRecord, ProfileToken
from actorchat.chat.operations import RecordPerson
from actorchat.protocol import Role

__all__ = ["MEMBERSHIP_SLACK", "SUPERSEDED_KEPT", "record_person"]

MEMBERSHIP_SLACK: Final = 10
"""Seconds that a membership outlasts its token, so that tokens issued shortly one after the other cause one write."""

SUPERSEDED_KEPT: Final = 8
"""How many superseded tokens without an issue date are remembered for each person."""


def record_person(stored: PersonRecord | None, operation: RecordPerson, now: float) -> PersonRecord:
    """Return the record after a token was used at `now`; it equals `stored` if the token changes nothing.

    Memberships add up: each lasts until the last token that names the source expires. The profile is the newest
    token's; claims that it omits keep their stored values. Tokens are ordered by their issue date, and those without
    one by their first use. A dated token whose claims equal the stored profile does not become the newest.
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

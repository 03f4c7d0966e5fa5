"""Defines the operation that erases a person, and the records of what administrators and supervisors do. Has no IO."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

from actorchat.chat.model import Identity

__all__ = ["AuditAction", "AuditEntry", "ErasePerson", "RecordAudit", "Recorded"]


class AuditAction(StrEnum):
    """The action that is recorded: on the data or the account of one person, or on many chats."""

    EXPORT = "export"
    ERASE = "erase"
    RETENTION = "retention"
    ACCOUNT_ADDED = "account_added"
    ACCOUNT_CHANGED = "account_changed"
    PASSWORD_RESET = "password_reset"  # noqa: S105 - the name of an action
    SIGNED_OUT = "signed_out"
    TAG_RENAMED = "tag_renamed"
    TAG_REMOVED = "tag_removed"


@attrs.frozen
class AuditEntry:
    """A record of what an administrator, a supervisor or the server did. It has no message and no file.

    `by` names who did it, `subject` to whom, `counts` what it covered, and `detail` what changed. A deletion of old
    chats has no `subject`. There is one record of it with the same `at`, which is replaced as more chats are deleted.

    `at` is in epoch seconds. `number` is given by the store, in ascending order.
    """

    at: int
    by: str
    action: AuditAction
    subject: Identity | None
    counts: Mapping[str, int]
    number: int = 0
    detail: str = ""


@attrs.frozen
class ErasePerson:
    """Remove the names and the picture of a person, and record the erasure."""

    audit: AuditEntry


@attrs.frozen
class RecordAudit:
    """Store a record by itself."""

    audit: AuditEntry


@attrs.frozen
class Recorded:
    """The audit record is stored."""

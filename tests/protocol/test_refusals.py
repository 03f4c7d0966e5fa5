"""The codes of refused messages, and which of them are retryable."""

from actorchat.protocol import RETRYABLE, RefusalCode


def test_the_codes_are_the_contracts() -> None:
    assert [str(code) for code in RefusalCode] == [
        "empty",
        "too_long",
        "malformed",
        "attachment_unknown",
        "attachment_rejected",
        "too_many_attachments",
        "chat_closed",
        "not_participant",
        "not_owner",
        "blocked",
        "rate_limited",
        "conflict",
        "over_capacity",
        "overloaded",
        "storage_unavailable",
        "draining",
    ]


def test_only_temporary_refusals_are_retryable() -> None:
    assert sorted(RETRYABLE) == ["draining", "overloaded", "rate_limited", "storage_unavailable"]

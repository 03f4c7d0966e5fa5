"""Messages show URLs without passwords and tokens, and with all else."""

import pytest

from actorchat.urls import without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:pa55word@db/chat", "postgresql://ann:***@db/chat"),
        ("postgres://ann:p@5/5@db/chat", "postgres://ann:***@db/chat"),
        ("postgresql://:pa55word@db/chat", "postgresql://***@db/chat"),
        ("postgresql://an/n@pa55word@db/chat", "postgresql://***@db/chat"),
        ("redis://t0ken@cache", "redis://***@cache"),
        ("redis://t0ken:@cache", "redis://t0ken:***@cache"),
        ("postgresql+nats://t0ken@cache", "postgresql+nats://***@cache"),
        ("postgresql://db/chat?password=pa55word&x=1", "postgresql://db/chat?password=***&x=1"),
    ],
)
def test_passwords_and_tokens_are_hidden(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://nobody@/chat?host=/run/postgresql",
        "postgres://nobody@db1,db2/chat",
        "postgresql://postgres:@/postgres?host=/srv/chat/postgres",
        "postgresql://db/chat?user=ann&password=",
        "the database postgresql://nobody@db/chat does not answer",
    ],
)
def test_the_user_of_a_postgresql_url_and_an_empty_password_stay(url: str) -> None:
    assert without_secrets(url) == url

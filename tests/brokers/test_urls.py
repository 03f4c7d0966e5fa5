"""A broker's URL is read in parts, and what is wrong with it is said without its password."""

from pathlib import Path

import pytest

from actorchat.brokers import BrokerUrl, InvalidBrokerUrl, parse_broker_url


@pytest.mark.parametrize(
    ("url", "parsed", "name"),
    [
        ("memory://", BrokerUrl(scheme="memory"), "memory://"),
        (
            "redis://127.0.0.1",
            BrokerUrl(scheme="redis", host="127.0.0.1", port=6379),
            "redis://127.0.0.1:6379",
        ),
        (
            "rediss://user:p%40ss@[::1]:6380/2?prefix=shop.&maxlen=10&format=faststream",
            BrokerUrl(
                scheme="rediss",
                host="::1",
                port=6380,
                username="user",
                password="p@ss",
                path="2",
                prefix="shop.",
                maxlen=10,
                faststream=True,
            ),
            "rediss://[::1]:6380/2?prefix=shop.",
        ),
        ("redis://:secret@h/0", BrokerUrl(scheme="redis", host="h", port=6379, password="secret", path="0"), None),
        (
            "amqp://me:secret@rabbit/my%2Fvhost",
            BrokerUrl(scheme="amqp", host="rabbit", port=5672, username="me", password="secret", path="my/vhost"),
            "amqp://rabbit:5672/my/vhost",
        ),
        (
            "nats://me:secret@h/?prefix=shop.&maxlen=9&creds=/my.creds",
            BrokerUrl(
                scheme="nats",
                host="h",
                port=4222,
                username="me",
                password="secret",
                prefix="shop.",
                maxlen=9,
                creds=Path("/my.creds"),
            ),
            "nats://h:4222?prefix=shop.",
        ),
        ("tls://secret@h:4443", BrokerUrl(scheme="tls", host="h", port=4443, password="secret"), "tls://h:4443"),
    ],
)
def test_urls_are_read_in_parts(url: str, parsed: BrokerUrl, name: str | None) -> None:
    assert parse_broker_url(url) == parsed
    assert name is None or parsed.name == name
    assert "secret" not in parsed.name + repr(parsed)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("kafka://host", "expected redis://"),
        ("host:6379", "expected redis://"),
        ("redis://", "expected a host"),
        ("amqp://broker..example", "broker..example can't be the name of a host"),
        (f"nats://{'b' * 64}.example", "can't be the name of a host"),
        ("redis://:secret@host:notaport", "port"),
        ("redis://h/path", "number of a database"),
        ("redis://h?nolimit=1", "no parameter nolimit; there are format, maxlen, prefix"),
        ("redis://h?maxlen=0", "maxlen: expected a whole number"),
        ("redis://h?format=xml", "plain or faststream"),
        ("amqp://h?prefix=a&prefix=b", "twice"),
        ("amqp://h?prefix=a%20b", "prefix: expected"),
        ("nats://h/path", "nothing may stand behind the host"),
        ("nats://h?prefix=a..b.", "something before each dot"),
        ("nats://h?prefix=.", "something before each dot"),
        ("nats://h?ca=x", "no parameter ca; there are creds, maxlen, prefix"),
        ("memory://host", "names no host"),
    ],
)
def test_bad_urls_are_refused_with_a_reason(url: str, words: str) -> None:
    with pytest.raises(InvalidBrokerUrl) as refused:
        parse_broker_url(url)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)

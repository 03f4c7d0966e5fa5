"""Parsing of a server's address, and the URLs made from it."""

import pytest

from actorchat.client.server_urls import ServerAddress
from tests.client.scripted_server import CHAT


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://chat.test", "http://chat.test"),
        ("wss://chat.test/", "https://chat.test"),
        ("https://chat.test:444/help/", "https://chat.test:444/help"),
        ("ws://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_one_address_gives_the_http_url(url: str, origin: str) -> None:
    assert ServerAddress.parse(url).origin == origin


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x?y=1", "http://x:99999", "http://a@b"])
def test_an_invalid_address_is_named(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        ServerAddress.parse(url)


@pytest.mark.parametrize("url", ["http://ann:pa55word@chat.test", "ftp://ann:pa55word@chat.test"])
def test_an_invalid_address_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"//ann:\*\*\*@chat\.test: ") as caught:
        ServerAddress.parse(url)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("server", ["https://chat.test/help", "https://chat.test"])
@pytest.mark.parametrize("link", ["/help/api/attachments/1", "https://files.test/1"])
def test_a_link_of_the_server_has_its_path_once(server: str, link: str) -> None:
    whole = f"https://chat.test{link}" if link.startswith("/") else link
    assert ServerAddress.parse(server).link(link) == whole


def test_a_link_of_a_server_that_does_not_know_its_path_gets_it() -> None:
    assert ServerAddress.parse("https://chat.test/help").link("/api/1") == "https://chat.test/help/api/1"


def test_a_mounted_server_has_its_sockets_under_its_path() -> None:
    server = ServerAddress.parse("https://chat.test/help")
    assert server.room(CHAT.uuid, None) == f"/help/ws/chats/{CHAT.uuid}"
    assert server.room(CHAT.uuid, -1) == f"/help/ws/chats/{CHAT.uuid}?after=-1"
    assert server.room(CHAT.uuid, None, quiet=True) == f"/help/ws/chats/{CHAT.uuid}?quiet=1"
    assert server.room(CHAT.uuid, 3, quiet=True) == f"/help/ws/chats/{CHAT.uuid}?after=3&quiet=1"
    assert server.feed(["a b"]) == "/help/ws/operators?source=a+b"

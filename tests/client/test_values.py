from random import Random

import pytest

from actorchat.client.backoff import Backoff
from actorchat.client.disconnect import Closed, Ending, Rejected, Reopened, Unreachable, explain, final_error
from actorchat.client.errors import ConnectionEnded, SignedOut
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


def test_a_mounted_server_has_its_sockets_under_its_path() -> None:
    server = ServerAddress.parse("https://chat.test/help")
    assert server.room(CHAT.uuid, None) == f"/help/ws/chats/{CHAT.uuid}"
    assert server.room(CHAT.uuid, -1) == f"/help/ws/chats/{CHAT.uuid}?after=-1"
    assert server.feed(["a b"]) == "/help/ws/operators?source=a+b"


def test_delays_spread_over_a_doubling_ceiling_with_a_cap() -> None:
    random = Random(1)
    for failures, ceiling in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30]):
        delays = []
        for _ in range(200):
            backoff = Backoff(random)
            for _ in range(failures):
                backoff.next_delay()
            delays.append(backoff.next_delay())
        assert max(delays) <= ceiling
        assert max(delays) > ceiling * 0.9
        assert min(delays) < ceiling * 0.1


def test_a_delay_is_never_shorter_than_the_server_asked_for() -> None:
    backoff = Backoff(Random(1))
    assert all(backoff.next_delay(7) >= 7 for _ in range(50))


@pytest.mark.parametrize(
    "ending",
    [
        *(Closed(code, "") for code in (1001, 1005, 1006, 1011, 1012, 1013)),
        *(Rejected(status, None) for status in (408, 429, 500, 503)),
        Unreachable("x"),
        Reopened(),
    ],
)
def test_temporary_errors_make_the_connection_reconnect(ending: Ending) -> None:
    assert final_error(ending, frame_dropped=False) is None
    assert explain(ending)


@pytest.mark.parametrize("code", [1000, 1002, 1010, 3000, 4400, 4401, 4403, 4404, 4410, 4999])
def test_other_closes_are_final(code: int) -> None:
    error = final_error(Closed(code, "why"), frame_dropped=True)
    assert isinstance(error, ConnectionEnded)
    assert (error.code, error.detail) == (code, "why")


def test_a_frame_error_is_retried_once_its_cause_was_found() -> None:
    for code in (1007, 1008, 1009):
        assert final_error(Closed(code, ""), frame_dropped=True) is None
        assert final_error(Closed(code, ""), frame_dropped=False) is not None


def test_signing_out_has_its_own_error() -> None:
    assert isinstance(final_error(Closed(4410, ""), frame_dropped=False), SignedOut)

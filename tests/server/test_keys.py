"""Several keys, key sets of identity providers, and the rotation of keys in a running server."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trio.testing import MockClock
from trio_websocket import ConnectionRejected

from actorchat.cli.settings_reload import Reloader
from actorchat.server.auth import BadToken, Tokens, UnknownKey
from actorchat.server.jwks import MAX_BYTES, RETRY_SECONDS, KeySet
from actorchat.server.keys import ALGORITHMS, InvalidKeySet, PublicKey, load_public_key, load_public_keys, read_key_set
from actorchat.server.settings import InvalidSettings, KeySettings, Settings
from tests.server.logging_state import logging_restored
from tests.server.server_under_test import SECRET, TIMEOUT, error_of, run_server

NEW_SECRET = "another-secret-for-tests-of-enough-bytes"
NOW = 1_900_000_000.0
CLAIMS = {"sub": "42", "role": "user", "aud": "actorchat", "exp": 4_000_000_000}

PRIVATE: dict[str, Any] = {  # Any: private keys of three types
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def signed(algorithm: str = "EdDSA", kid: str | None = None, key: Any = None) -> str:  # Any: a private key
    headers = {} if kid is None else {"kid": kid}
    token: str = jwt.encode(CLAIMS, key or PRIVATE[algorithm], algorithm, headers)
    return token


def pem(folder: Path, name: str, key: Any) -> Path:  # Any: a private key
    path = folder / name
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def jwk(algorithm: str = "EdDSA", key: Any = None, **fields: object) -> dict[str, object]:  # Any: a private key
    kind = jwt.get_algorithm_by_name(algorithm)
    entry: dict[str, object] = json.loads(kind.to_jwk((key or PRIVATE[algorithm]).public_key()))
    return entry | fields


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_key_from_a_file_verifies_tokens_of_its_algorithm_only(tmp_path: Path, algorithm: str) -> None:
    tokens = Tokens(SECRET, [load_public_key(pem(tmp_path, "key.pem", PRIVATE[algorithm]))])
    assert tokens.verify(signed(algorithm)).user.id == 42
    for other in ALGORITHMS - {algorithm}:
        with pytest.raises(UnknownKey):
            tokens.verify(signed(other))


def test_the_kid_of_a_token_selects_its_key(tmp_path: Path) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    settings = Settings(
        keys=KeySettings(
            public=(f"a={pem(tmp_path, 'a.pem', PRIVATE['EdDSA'])}", f"b={pem(tmp_path, 'b.pem', other)}"),
        )
    )
    tokens = Tokens(SECRET, load_public_keys(settings))
    for token in (signed(kid="a"), signed(kid="b", key=other), signed(), signed(key=other)):
        assert tokens.verify(token).user.id == 42
    for token in (signed(kid="b"), signed(kid="c"), signed(key=ed25519.Ed25519PrivateKey.generate())):
        with pytest.raises(UnknownKey):
            tokens.verify(token)


def test_all_unusable_key_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no key")
    settings = Settings(public_key=tmp_path / "bad.pem", keys=KeySettings(public=(f"x={tmp_path}/none.pem",)))
    with pytest.raises(InvalidSettings) as caught:
        load_public_keys(settings)
    assert [fault.name for fault in caught.value.faults] == ["public_key", "keys.public"]


@pytest.mark.parametrize(
    "url", ["http://id.example/keys", "ftp://id.example/k", "https://u:p@id.example/k", "https:///k", "keys.json"]
)
def test_a_key_set_is_not_fetched_over_an_unsafe_connection(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"keys\.jwks"):
        Settings(keys=KeySettings(jwks=url))


def test_a_key_set_gives_the_keys_that_can_verify_tokens() -> None:
    entries = [
        jwk("RS256", kid="r", alg="RS256", use="sig"),
        jwk("ES256", kid="e"),
        jwk("EdDSA"),
        jwk("RS256", kid="for encryption", use="enc"),
        jwk("RS256", kid="another algorithm", alg="PS256"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kty": "RSA", "kid": "broken"},
        "nonsense",
    ]
    keys = read_key_set({"keys": entries})
    assert [(key.algorithm, key.kid) for key in keys] == [("RS256", "r"), ("ES256", "e"), ("EdDSA", "")]


@pytest.mark.parametrize("value", [[], {}, {"keys": {}}, {"keys": []}, {"keys": [jwk()] * 101}])
def test_a_key_set_without_usable_keys_is_refused(value: object) -> None:
    with pytest.raises(InvalidKeySet):
        read_key_set(value)


def test_tokens_of_the_previous_secret_are_accepted_until_it_is_removed() -> None:
    old = Tokens(SECRET)
    token, refresh = jwt.encode(CLAIMS, SECRET, "HS256"), old.refresh_token("a" * 32, 3)
    tokens = Tokens(NEW_SECRET, previous=[SECRET])
    assert tokens.verify(token).user.id == 42
    assert tokens.read_refresh_token(refresh) == ("a" * 32, 3)
    tokens.use_keys(NEW_SECRET)
    with pytest.raises(BadToken, match="Signature verification failed"):
        tokens.verify(token)
    with pytest.raises(BadToken):
        tokens.read_refresh_token(refresh)


class Provider:
    """An identity provider that answers each request with `body`, and counts them."""

    def __init__(self, *entries: dict[str, object]) -> None:
        self.body: bytes = json.dumps({"keys": entries}).encode()
        self.status = "200 OK"
        self.requests = 0

    async def answer(self, stream: trio.SocketStream) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += await stream.receive_some()
        self.requests += 1
        head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        await stream.send_all(head.encode() + self.body)
        await stream.aclose()


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, provider.answer, 0, host="127.0.0.1")
        [listener] = await nursery.start(serve)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/keys"
        nursery.cancel_scope.cancel()


async def test_an_unknown_key_makes_the_server_fetch_the_key_set_again(tmp_path: Path) -> None:
    provider = Provider(jwk(kid="a"))
    async with serving(provider) as url:
        settings = Settings(storage="memory://", port=0, secret=SECRET, keys=KeySettings(jwks=url))
        async with run_server(settings) as api:
            answer = await api.call("GET", "/api/chats", signed(kid="a"))
            assert answer.status_code == 200, answer.text
            assert provider.requests == 1
            new = ed25519.Ed25519PrivateKey.generate()
            for _ in range(5):
                answer = await api.call("GET", "/api/chats", signed(kid="b", key=new))
                assert error_of(answer) == (401, "not_authenticated", "")
            assert provider.requests == 1, "at most once a minute"


async def test_the_key_set_is_fetched_at_most_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    provider = Provider(jwk(kid="a"))
    used: list[tuple[PublicKey, ...] | None] = []
    with trio.fail_after(TIMEOUT):
        async with serving(provider) as url:
            key_set = KeySet(url, used.append)
            await key_set.refresh()
            assert not key_set.may_refresh()
            await key_set.refresh()
            assert (provider.requests, len(used)) == (1, 1)
            key_set._tried_at -= RETRY_SECONDS
            assert key_set.may_refresh()
            await key_set.refresh()
            assert (provider.requests, len(used)) == (2, 2)
            for body, status, reason in (
                (b"{", "200 OK", "not JSON"),
                (b"x" * (MAX_BYTES + 1), "200 OK", "more than"),
                (b"", "302 Found", "the status 302"),
                (b'{"keys": []}', "200 OK", "no key for"),
            ):
                provider.body, provider.status = body, status
                key_set._tried_at -= RETRY_SECONDS
                caplog.clear()
                with caplog.at_level(logging.ERROR):
                    await key_set.refresh()
                assert reason in caplog.text
            assert len(used) == 2


async def test_a_provider_that_cannot_be_reached_does_not_stop_the_server() -> None:
    settings = Settings(storage="memory://", port=0, secret=SECRET, keys=KeySettings(jwks="http://127.0.0.1:1/keys"))
    async with run_server(settings) as api:
        assert error_of(await api.call("GET", "/api/chats", signed(kid="a")))[0] == 401
        assert (await api.call("GET", "/api/chats", jwt.encode(CLAIMS, SECRET, "HS256"))).status_code == 200


async def test_the_address_of_the_key_set_is_changed_without_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    new = ed25519.Ed25519PrivateKey.generate()
    async with serving(Provider(jwk())) as old_url, serving(Provider(jwk(key=new))) as new_url:

        def at(url: str | None) -> Settings:
            return Settings(storage="memory://", port=0, secret=SECRET, keys=KeySettings(jwks=url))

        async with run_server(at(old_url)) as api:

            async def statuses() -> tuple[int, int]:
                old_user = await api.call("GET", "/api/chats", signed())
                return old_user.status_code, (await api.call("GET", "/api/chats", signed(key=new))).status_code

            wanted = [at(new_url), at(None), at(old_url)]
            reloader = Reloader(api.server, at(old_url), lambda: wanted.pop(0))
            assert await statuses() == (200, 401)
            with logging_restored(), caplog.at_level(logging.WARNING):
                await reloader.reload()
                assert await statuses() == (401, 200)
                await reloader.reload()
                assert await statuses() == (401, 401)
                await reloader.reload()
                assert await statuses() == (200, 401)
    assert "need a restart" not in caplog.text


async def test_keys_that_arrive_after_their_address_has_changed_are_not_used() -> None:
    used: list[tuple[PublicKey, ...] | None] = []
    provider, begun, go_on = Provider(jwk(kid="old")), trio.Event(), trio.Event()
    answer = provider.answer

    async def late(stream: trio.SocketStream) -> None:
        begun.set()
        await go_on.wait()
        await answer(stream)

    provider.answer = late  # type: ignore[method-assign]
    with trio.fail_after(TIMEOUT):
        async with serving(provider) as old_url, serving(Provider(jwk(kid="new"))) as new_url:
            key_set = KeySet(old_url, used.append)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(key_set.refresh)
                await begun.wait()
                key_set.follow(new_url)
                go_on.set()
    assert [[key.kid for key in keys or ()] for keys in used] == [[], ["new"]]


async def test_without_a_key_set_nothing_is_fetched() -> None:
    used: list[tuple[PublicKey, ...] | None] = []
    key_set = KeySet(None, used.append)
    await key_set.refresh()
    key_set.follow(None)
    assert (used, key_set.may_refresh()) == ([], False)


async def test_keys_are_replaced_without_a_restart(tmp_path: Path) -> None:
    old, new = PRIVATE["EdDSA"], ed25519.Ed25519PrivateKey.generate()
    path = pem(tmp_path, "site.pem", old)
    settings = Settings(storage="memory://", data=tmp_path / "data", port=0, public_key=path)

    async with run_server(settings) as api:

        async def status(token: str) -> int:
            return (await api.call("GET", "/api/chats", token)).status_code

        secret = settings.data / "secret" if settings.data else tmp_path
        own = jwt.encode(CLAIMS, secret.read_text().strip(), "HS256")
        assert (await status(own), await status(signed()), await status(signed(key=new))) == (200, 200, 401)
        pem(tmp_path, "site.pem", new)
        secret.rename(secret.with_name("secret.previous"))
        secret.write_text(NEW_SECRET)
        secret.chmod(0o600)
        await api.server.reload_keys(settings)
        assert (await status(own), await status(signed()), await status(signed(key=new))) == (200, 401, 200)
        assert await status(jwt.encode(CLAIMS, NEW_SECRET, "HS256")) == 200
        path.write_text("no key")
        secret.with_name("secret.previous").unlink()
        with pytest.raises(InvalidSettings):
            await api.server.reload_keys(settings)
        assert await status(own) == 200, "a reload that fails changes nothing"
        pem(tmp_path, "site.pem", new)
        await api.server.reload_keys(settings)
        assert await status(own) == 401


async def test_a_socket_outlives_the_key_of_its_token_and_no_other_one_opens_with_it() -> None:
    settings = Settings(storage="memory://", port=0, secret=SECRET)
    async with run_server(settings) as api:
        visitor, chat = await api.visit()
        async with api.socket(f"/ws/chats/{chat}", visitor) as socket:
            await api.server.reload_keys(attrs.evolve(settings, secret=NEW_SECRET))
            with pytest.raises(ConnectionRejected) as refused:
                async with api.socket(f"/ws/chats/{chat}", visitor):
                    pass
            assert refused.value.status_code == 401
            await socket.send_message('{"type": "send_message", "data": {"text": "still here", "attachments": []}}')
            with trio.fail_after(TIMEOUT):
                while "still here" not in await socket.get_message():
                    pass


async def test_a_slow_provider_is_given_up(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    key_set = KeySet("http://127.0.0.1:1/keys", lambda keys: None)

    async def fetch(url: str) -> None:
        await trio.sleep_forever()

    key_set._fetch = fetch  # type: ignore[method-assign,assignment] # a provider that never answers
    await key_set.refresh()
    assert "can't be fetched within 10 s" in caplog.text

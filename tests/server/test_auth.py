"""Which tokens are accepted, and which claims are used."""

import hmac
import json
import os
import stat
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from random import SystemRandom

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from actorchat.protocol import Role, User
from actorchat.server.auth import (
    CACHED_TOKENS,
    MAX_CACHED_CHARACTERS,
    MAX_CACHED_SOURCES,
    SESSION_CLAIM,
    BadToken,
    Tokens,
    anonymous_id,
    ensure_secret,
    local_token,
    read_secret,
)
from actorchat.server.keys import load_public_key
from actorchat.server.settings import InvalidSettings

SECRET = "a-secret-of-thirty-two-bytes-or-more"
NOW = 1_000_000.0
DAY = 24 * 3600


def tokens(**claims: object) -> tuple[Tokens, str]:
    """Tokens at the time `NOW`, and a valid token with these changed claims; None leaves a claim out."""
    payload = {"sub": "7", "role": "user", "aud": "actorchat", "exp": NOW + 60, "src": ["lk"]} | claims
    kept = {name: value for name, value in payload.items() if value is not None}
    # Signed as raw JSON, because PyJWT refuses to encode some claims that other issuers write.
    return Tokens(SECRET, now=lambda: NOW), jwt.api_jws.encode(json.dumps(kept).encode(), SECRET, algorithm="HS256")


def test_an_issued_token_has_the_claims_of_its_user() -> None:
    judge = Tokens(SECRET, now=lambda: NOW)
    user = User(7, Role.OPERATOR, firstname="Olga", avatar="https://x/y.png")
    claims = judge.verify(judge.issue(user, {"lk", "shop"}, ttl=60))
    assert claims.user == user
    assert claims.claimed == {"firstname", "avatar"}
    assert claims.sources == frozenset({"lk", "shop"})
    assert claims.expires == NOW + 60


def test_an_empty_profile_claim_is_a_claim() -> None:
    judge, token = tokens(firstname="")
    assert judge.verify(token).claimed == {"firstname"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": NOW},
        {"exp": NOW - 1},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 1e400},
        {"exp": True},
        {"aud": "other"},
        {"aud": None},
        {"aud": ["other"]},
        {"aud": []},
        {"aud": {"actorchat": True}},
        {"iat": NOW + 61},
        {"iat": "yesterday"},
        {"iat": True},
        {"nbf": NOW + 61},
        {"nbf": "soon"},
        {"nbf": 1e400},
        {"sub": 7},
        {"sub": None},
        {"sub": "x"},
        {"sub": "007"},
        {"sub": "-1"},
        {"sub": "\u0663"},
        {"sub": str(2**53)},
        {"role": None},
        {"role": "admin"},
        {"role": ["user"]},
        {"src": "lk"},
        {"src": ["LK"]},
        {"src": [1]},
        {"firstname": 7},
        {"firstname": "a\0b"},
        {"firstname": "\ud800"},
        {"lastname": "x" * 3000},
    ],
    ids=str,
)
def test_a_token_with_a_wrong_claim_is_refused(wrong: dict[str, object]) -> None:
    judge, token = tokens(**wrong)
    with pytest.raises(BadToken):
        judge.verify(token)


@pytest.mark.parametrize(
    "usual",
    [
        {"iat": NOW + 2, "nbf": NOW + 2},
        {"iat": NOW + 60, "nbf": NOW + 60},
        {"iat": NOW + 0.25},
        {"iat": None, "nbf": None},
        {"jti": 17},
        {"jti": {"id": 17}},
        {"iss": 17},
        {"iss": ["https://id.example"]},
        {"aud": ["shop", "actorchat"]},
        {"aud": ["actorchat", 17]},
        {"exp": NOW + 0.5},
        {"azp": 17, "scope": ["openid"], "auth_time": "noon"},
    ],
    ids=str,
)
def test_common_claims_of_other_issuers_are_accepted(usual: dict[str, object]) -> None:
    judge, token = tokens(**usual)
    assert judge.verify(token).user.id == 7


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_a_clock_that_is_two_seconds_ahead_is_believed(claim: str) -> None:
    now = time.time()
    claims = {"sub": "7", "role": "user", "aud": "actorchat", "exp": now + 60, claim: int(now) + 2}
    assert Tokens(SECRET).verify(jwt.encode(claims, SECRET, algorithm="HS256")).user.id == 7


@pytest.mark.parametrize(
    ("wrong", "detail"),
    [
        ({"sub": 7}, "sub must be a decimal"),
        ({"aud": "x"}, "aud must be 'actorchat'"),
        ({"nbf": NOW * 2}, "nbf is in the future"),
    ],
    ids=str,
)
def test_a_refusal_names_the_claim_and_what_it_has_to_be(wrong: dict[str, object], detail: str) -> None:
    judge, token = tokens(**wrong)
    with pytest.raises(BadToken, match=f"^{detail}"):
        judge.verify(token)


def test_a_cached_token_still_expires() -> None:
    now = [NOW]
    judge = Tokens(SECRET, now=lambda: now[0])
    token = judge.issue(User(7, Role.USER), (), 60)
    for now[0] in (NOW, NOW + 59):
        assert judge.verify(token).user.id == 7
    now[0] = NOW + 60
    with pytest.raises(BadToken, match="expired"):
        judge.verify(token)


def test_the_cache_of_verified_tokens_is_bounded_and_skips_long_ones() -> None:
    judge = Tokens(SECRET, now=lambda: NOW)
    first = judge.issue(User(1, Role.USER), (), 60)
    remembered = judge.verify(first)
    assert judge.verify(first) is remembered
    for number in range(CACHED_TOKENS):
        judge.verify(judge.issue(User(2, Role.USER), (), 60 + number))
    assert judge.verify(first) is not remembered
    assert judge.verify(first) == remembered
    long = judge.issue(User(1, Role.USER, avatar="x" * MAX_CACHED_CHARACTERS), (), 60)
    assert judge.verify(long) is not judge.verify(long)
    wide = judge.issue(User(1, Role.USER), [*map(str, range(MAX_CACHED_SOURCES + 1))], 60)
    assert len(wide) <= MAX_CACHED_CHARACTERS
    assert judge.verify(wide) is not judge.verify(wide)
    narrower = judge.issue(User(1, Role.USER), [*map(str, range(MAX_CACHED_SOURCES))], 60)
    assert judge.verify(narrower) is judge.verify(narrower)


def test_a_token_that_is_renewed_again_and_again_ends_with_its_session() -> None:
    now = [NOW]
    judge, visitor = Tokens(SECRET, now=lambda: now[0], session_age=45 * DAY), User(2**52, Role.USER)
    token = judge.open_session(visitor, "lk")
    ends = []
    for now[0] in (NOW, NOW + 10 * DAY, NOW + 20 * DAY, NOW + 40 * DAY, NOW + 45 * DAY - 1):
        claims = judge.verify(token)
        token = judge.renew(visitor, "lk", expires=claims.expires, session_at=claims.session_at)
        ends.append((judge.verify(token).expires - NOW) / DAY)
    assert ends == [30, 40, 45, 45, 45]
    now[0] = NOW + 45 * DAY
    with pytest.raises(BadToken, match="expired"):
        judge.verify(token)


def test_a_session_age_that_was_lowered_holds_for_tokens_that_are_out() -> None:
    visitor = User(2**52, Role.USER)
    token = Tokens(SECRET, now=lambda: NOW).open_session(visitor, "lk")
    assert Tokens(SECRET, now=lambda: NOW + 59, session_age=60).verify(token).expires == NOW + 60
    with pytest.raises(BadToken, match="expired"):
        Tokens(SECRET, now=lambda: NOW + 60, session_age=60).verify(token)


def test_a_token_that_was_signed_elsewhere_is_renewed_until_its_own_end(tmp_path: Path) -> None:
    private, algorithm, judge, _ = elsewhere(tmp_path, "EdDSA")
    good = {"sub": "7", "role": "user", "aud": "actorchat", "exp": NOW + 60}
    # The claim for the start of a session has no meaning in a token of another issuer.
    signed = jwt.encode(good | {SESSION_CLAIM: NOW}, private, algorithm)
    for token in (signed, judge.issue(User(7, Role.USER), (), 60)):
        for _ in range(3):
            claims = judge.verify(token)
            token = judge.renew(claims.user, "lk", expires=claims.expires, session_at=claims.session_at)
            assert judge.verify(token).expires == NOW + 60


def unsigned(algorithm: str) -> str:
    head, body = (
        urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=").decode()
        for part in (
            {"alg": algorithm, "typ": "JWT"},
            {"sub": "7", "role": "user", "aud": "actorchat", "exp": 2 * NOW},
        )
    )
    return f"{head}.{body}."


@pytest.mark.parametrize("forged", ["", ".", "..", "a.b.c", unsigned("none"), unsigned("None"), unsigned("HS256")])
def test_a_token_without_a_signature_is_refused(forged: str) -> None:
    with pytest.raises(BadToken):
        Tokens(SECRET, now=lambda: NOW).verify(forged)


def test_a_token_signed_with_another_secret_is_refused() -> None:
    token = Tokens(SECRET.upper(), now=lambda: NOW).issue(User(7, Role.USER), (), 60)
    with pytest.raises(BadToken):
        Tokens(SECRET, now=lambda: NOW).verify(token)


def elsewhere(tmp_path: Path, kind: str) -> tuple[str, str, Tokens, str]:
    """(private PEM, algorithm, `Tokens` that accept its public key, public PEM)."""
    rsa = kind == "RS256"
    key = generate_private_key(65537, 2048) if rsa else Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    path = tmp_path / "site.pem"
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, kind, Tokens(SECRET, [load_public_key(path)], now=lambda: NOW), path.read_text()


@pytest.mark.parametrize("kind", ["RS256", "EdDSA"])
def test_tokens_signed_elsewhere_are_believed_with_ids_below_2_to_the_52(tmp_path: Path, kind: str) -> None:
    private, algorithm, judge, _ = elsewhere(tmp_path, kind)
    good = {"sub": str(2**52 - 1), "role": "user", "aud": "actorchat", "exp": NOW + 60}
    assert judge.verify(jwt.encode(good, private, algorithm)).user.id == 2**52 - 1
    assert judge.verify(judge.issue(User(2**52, Role.USER), (), 60)).user.id == 2**52
    with pytest.raises(BadToken, match=r"below 2\^52"):
        judge.verify(jwt.encode(good | {"sub": str(2**52)}, private, algorithm))


def test_a_public_key_is_never_used_as_a_shared_secret(tmp_path: Path) -> None:
    _, _, judge, public = elsewhere(tmp_path, "EdDSA")
    signed, _, _ = unsigned("HS256").rpartition(".")
    signature = hmac.digest(public.encode(), signed.encode(), "sha256")
    with pytest.raises(BadToken):
        judge.verify(f"{signed}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}")


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PUBLIC KEY-----\nxx\n"])
def test_a_file_without_a_public_key_is_a_fault_of_the_settings(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(InvalidSettings, match=r"public_key: .*does not contain a public key"):
        load_public_key(path)


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    secret = ensure_secret(tmp_path)
    assert ensure_secret(tmp_path) == read_secret(tmp_path) == secret
    assert len(secret) >= 32
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def write_secret(folder: Path, content: bytes, mode: int = 0o600) -> None:
    (folder / "secret").write_bytes(content)
    (folder / "secret").chmod(mode)


def test_a_secret_that_is_too_short_stops_the_start(tmp_path: Path) -> None:
    write_secret(tmp_path, b"short")
    with pytest.raises(InvalidSettings, match="too short"):
        ensure_secret(tmp_path)


def test_a_secret_of_any_bytes_is_used_as_it_is(tmp_path: Path) -> None:
    secret = bytes(range(200, 248))
    write_secret(tmp_path, secret + b"\n")
    token = local_token(tmp_path, role=Role.USER, user_id=7)
    assert Tokens(secret).verify(token).user.id == 7
    # A secret was once decoded so that all bytes above 127 became the same character.
    for guess in ("\N{REPLACEMENT CHARACTER}" * 48, "?" * 48, bytes(reversed(secret))):
        with pytest.raises(BadToken):
            Tokens(guess).verify(token)


@pytest.mark.parametrize(
    "weak", [b"a" * 64, bytes(64), "пароль".encode() * 8, "пароль".encode("utf-16") * 8, b"abc\n" * 9]
)
def test_a_secret_file_that_is_easy_to_guess_stops_the_start(tmp_path: Path, weak: bytes) -> None:
    write_secret(tmp_path, weak)
    with pytest.raises(InvalidSettings, match=r"secret is easy to guess: delete it, and the server creates a new one"):
        ensure_secret(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="files have no modes here")
@pytest.mark.parametrize(
    ("mode", "others"), [(0o640, "its group"), (0o620, "its group"), (0o604, "every user"), (0o666, "every user")]
)
def test_a_secret_that_others_may_use_stops_the_start_with_what_to_type(tmp_path: Path, mode: int, others: str) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    ensure_secret(folder)
    (folder / "secret").chmod(mode)
    told = (
        rf"is accessible to {others} \(its mode is 0{mode:o}\): run chmod 600 '.*with space/secret', or set ACTORCHAT"
    )
    for read in (ensure_secret, read_secret):
        with pytest.raises(InvalidSettings, match=told):
            read(folder)
    (folder / "secret").chmod(0o600)
    ensure_secret(folder)


def test_where_files_have_no_modes_a_secret_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Like on a mounted Windows folder, where all files have the same mode.
    ensure_secret(tmp_path)
    (tmp_path / "secret").chmod(0o777)
    umask, real_open = os.umask(0), os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0o777: real_open(path, flags, 0o777))
    try:
        assert ensure_secret(tmp_path) == read_secret(tmp_path)
    finally:
        os.umask(umask)
    assert os.listdir(tmp_path) == ["secret"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_secret_that_is_a_pipe_stops_the_start_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret", 0o600)
    with pytest.raises(InvalidSettings, match="not a regular file"):
        ensure_secret(tmp_path)


def test_a_local_token_is_believed_by_the_server_of_the_folder(tmp_path: Path) -> None:
    secret = ensure_secret(tmp_path)
    token = local_token(tmp_path, role=Role.OPERATOR, user_id=7, sources=["lk"], firstname="Olga")
    claims = Tokens(secret).verify(token)
    assert claims.user == User(7, Role.OPERATOR, firstname="Olga")
    assert claims.sources == frozenset({"lk"})


@pytest.mark.parametrize("role", ["user", "operator"])
def test_a_backend_that_has_the_secret_signs_no_id_of_an_anonymous_visitor(role: str) -> None:
    judge, token = tokens(sub=str(2**52), role=role)
    with pytest.raises(BadToken, match=r"below 2\^52"):
        judge.verify(token)
    judge, token = tokens(sub=str(2**52 - 1), role=role)
    assert judge.verify(token).user.id == 2**52 - 1


@pytest.mark.parametrize("user", [User(2**52, Role.OPERATOR), User(2**53, Role.USER), User(-1, Role.USER)])
def test_no_token_is_issued_that_would_be_refused(user: User) -> None:
    with pytest.raises(ValueError, match="expected an id from 0 to"):
        Tokens(SECRET).issue(user, ("lk",), 60)


def test_anonymous_ids_are_out_of_reach_of_tokens_from_elsewhere() -> None:
    ids = {anonymous_id(SystemRandom()) for _ in range(1000)}
    assert len(ids) == 1000
    assert all(2**52 <= number < 2**53 for number in ids)

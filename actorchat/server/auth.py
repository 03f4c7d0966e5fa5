"""Signs and verifies JWTs, and keeps the secret that signs them."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import os
import re
import secrets
import shlex
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import attrs
import jwt

from actorchat.chat.accounts import Rights
from actorchat.chat.model import ANONYMOUS_IDS, ENDLESS
from actorchat.chat.operations import RecordPerson
from actorchat.http.source_names import is_source_name
from actorchat.protocol import Role, User
from actorchat.server.keys import ALGORITHMS, PublicKey
from actorchat.server.setting_values import weakness_of
from actorchat.server.settings import InvalidSettings, SettingFault

if TYPE_CHECKING:
    from jwt.types import Options

__all__ = [
    "FIRST_ANONYMOUS_ID",
    "VISITOR_TTL",
    "BadToken",
    "Claims",
    "Tokens",
    "UnknownKey",
    "anonymous_id",
    "drafted_secret",
    "ensure_secret",
    "is_storable",
    "local_token",
    "new_secret",
    "previous_secret",
    "read_secret",
]

VISITOR_TTL: Final = 30 * 24 * 3600
"""Lifetime in seconds of an anonymous visitor's token. It can be renewed until the visitor's session ends."""

SESSION_CLAIM: Final = "sid_at"
"""The claim with the time at which an anonymous visitor's session began, in epoch seconds. Renewed tokens keep it.
It is ignored in a token that was not signed with the server's own secret.
"""

AUDIENCE: Final = "actorchat"
SECRET_FILE: Final = "secret"  # noqa: S105 - the name of the file
PREVIOUS_SECRET_FILE: Final = "secret.previous"  # noqa: S105 - the name of a file
_MAX_SECRET_BYTES: Final = 65_536
"""Bytes that are read of the secret file."""

PROFILE: Final = ("firstname", "lastname", "patronymic", "avatar")

FIRST_ANONYMOUS_ID: Final = ANONYMOUS_IDS
"""The server assigns ids from here on to anonymous visitors. All other ids must be lower."""

RIGHTS_CLAIM: Final = "rights"
"""The claim with an operator's rights: `operator` (the default), `supervisor` or `admin`."""

SIGN_IN_CLAIM: Final = "sid"
"""The claim with the sign-in that an access token belongs to. It is ignored in tokens of other issuers."""

_REFRESH_TOKEN: Final = re.compile(r"([0-9a-f]{32})\.([0-9]{1,15})\.([0-9A-Za-z_-]{43})")

_SUBJECT: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_MAX_ID: Final = 2**53 - 1
_LEEWAY: Final = 60.0
"""Seconds by which an issuer's clock may be ahead of this machine's. `exp` gets no leeway: sockets end at it too."""

_MAX_CLAIM_CHARACTERS: Final = 2048
_MAX_SOURCES: Final = 1000

CACHED_TOKENS: Final = 4096
MAX_CACHED_CHARACTERS: Final = 2048
"""Longer tokens are not cached, so that the cached tokens take at most 8 MiB together."""
MAX_CACHED_SOURCES: Final = 32
"""Tokens with more sources are not cached, so that the claims of a cached token take a few KiB at most."""


class BadToken(Exception):  # noqa: N818 - it is the token that is bad
    """The token is expired, malformed, or signed with an unknown key. The text never quotes the token."""


class UnknownKey(BadToken):
    """The token is signed with a key that is not known: it may be a new one of its issuer, or none at all."""


@attrs.frozen
class Claims:
    """The claims of a verified token. `user` has the claimed profile fields only, and `claimed` names them.

    `sources` is None if the token has no `src`: the caller then may see no source, and the stored sources stay.
    `expires` and `session_at` are in epoch seconds. `session_at` is when an anonymous visitor's session began, None for
    a token that `Tokens.open_session` did not issue. `token` is a hash that identifies the token, "" without a token.
    `issued` is its `iat`. `rights` are an operator's, None if the token has no such claim. `session` is the id of the
    sign-in that the token belongs to, "" for other tokens.
    """

    user: User
    claimed: frozenset[str]
    sources: frozenset[str] | None
    expires: float
    session_at: float | None = None
    token: str = ""
    issued: float | None = None
    rights: Rights | None = None
    session: str = ""

    def as_operation(self) -> RecordPerson:
        until = ENDLESS if self.expires >= ENDLESS else ceil(self.expires)
        return RecordPerson(self.user, self.claimed, self.sources, until, self.token, self.issued)


class Tokens:
    """Signs tokens with the server's secret, and verifies tokens with that secret, previous ones, or public keys.

    `now` returns epoch seconds. `session_age` is how many seconds an anonymous visitor's session lasts, however often
    its token is renewed. The claims of recently used tokens are cached, so that a signature is checked only once.
    """

    def __init__(
        self,
        secret: str | bytes,
        public_keys: Collection[PublicKey] = (),
        *,
        previous: Collection[str | bytes] = (),
        now: Callable[[], float] = time.time,
        session_age: float = VISITOR_TTL,
    ) -> None:
        self._now = now
        self._session_age = session_age
        self._external: tuple[PublicKey, ...] | None = None
        self._cache: OrderedDict[str, Claims] = OrderedDict()
        self.use_keys(secret, public_keys, previous)

    def use_keys(
        self, secret: str | bytes, public_keys: Collection[PublicKey] = (), previous: Collection[str | bytes] = ()
    ) -> None:
        """Sign with `secret` from now on. Accept also tokens that are signed with `previous` or `public_keys`."""
        self._secret = _bytes(secret)
        self._secrets = [self._secret, *map(_bytes, previous)]
        # Given a string, PyJWT would check at every call whether it is a PEM or SSH key.
        self._secret_keys = [jwt.PyJWK({"kty": "oct", "k": _base64url(each)}, "HS256") for each in self._secrets]
        self._public_keys = tuple(public_keys)
        # A token that was good may be signed with a key that is not accepted any more.
        self._cache.clear()

    def use_external_keys(self, keys: Collection[PublicKey] | None) -> None:
        """Accept also tokens that are signed with `keys`, which replace those of the last call; None for none.

        With keys, and with an empty collection, other tokens raise UnknownKey, because the keys may change.
        """
        self._external = None if keys is None else tuple(keys)
        self._cache.clear()

    @property
    def secret(self) -> bytes:
        """The secret that signs."""
        return self._secret

    def fingerprints(self) -> tuple[str, ...]:
        """One fingerprint for each accepted secret. Other nodes compare them; a secret can't be computed from one."""
        return tuple([_derived(secret, "fingerprint").hex()[:16] for secret in self._secrets])

    def derive_key(self, purpose: str) -> bytes:
        """Derive a key for another purpose than tokens from the server's secret."""
        return _derived(self._secret, purpose)

    def issue(self, user: User, sources: Collection[str], ttl: float, rights: Rights | None = None) -> str:
        """Return a token for `user` that is valid for `ttl` seconds. Empty profile fields are not claimed.

        `rights` are an operator's, None for those of a plain operator.

        Raises ValueError for an id that `verify` would refuse.
        """
        highest = _MAX_ID if user.role is Role.USER else FIRST_ANONYMOUS_ID - 1
        if not 0 <= user.id <= highest:
            raise ValueError(f"expected an id from 0 to {highest} for the role {user.role}, got {user.id}")
        now = self._now()
        session_at = now if user.id >= FIRST_ANONYMOUS_ID else None
        claims = {} if rights is None else {RIGHTS_CLAIM: rights.value}
        return self._sign(user, sources, now + ttl, session_at, claims)

    def issue_for_session(
        self, user: User, sources: Collection[str], rights: Rights, session: str, *, expires: float
    ) -> str:
        """Return an access token of the sign-in with the id `session`, until `expires` (epoch seconds)."""
        return self._sign(user, sources, expires, claims={SIGN_IN_CLAIM: session, RIGHTS_CLAIM: rights.value})

    def refresh_token(self, session: str, generation: int) -> str:
        """Return the refresh token of that generation of a sign-in."""
        return f"{session}.{generation}.{next(self._refresh_tags(session, generation))}"

    def read_refresh_token(self, text: str) -> tuple[str, int]:
        """Return the id of the sign-in and the generation. Raises BadToken if this server has not signed the token."""
        match = _REFRESH_TOKEN.fullmatch(text)
        if match is None:
            raise BadToken("this is not a refresh token")
        session, generation = match[1], int(match[2])
        if not any(hmac.compare_digest(match[3], tag) for tag in self._refresh_tags(session, generation)):
            raise BadToken("the refresh token is signed with an unknown key")
        return session, generation

    def _refresh_tags(self, session: str, generation: int) -> Iterator[str]:
        for secret in self._secrets:
            key = _derived(secret, "refresh tokens")
            yield _base64url(hmac.digest(key, f"{session}.{generation}".encode(), "sha256"))

    def open_session(self, user: User, source: str) -> str:
        """Return a token for a new anonymous visitor, whose session begins now."""
        now = self._now()
        return self._sign(user, (source,), now + min(VISITOR_TTL, self._session_age), now)

    def renew(self, user: User, source: str, *, expires: float, session_at: float | None) -> str:
        """Return a new token to replace one that expires at `expires`.

        An anonymous visitor's token lasts another `VISITOR_TTL`, but not longer than the session that began at
        `session_at`. Any other token keeps its expiry: only its issuer may extend it.
        """
        if session_at is not None:
            expires = min(self._now() + VISITOR_TTL, session_at + self._session_age)
        return self._sign(user, (source,), expires, session_at)

    def _sign(
        self,
        user: User,
        sources: Collection[str],
        expires: float,
        session_at: float | None = None,
        claims: Mapping[str, str] | None = None,
    ) -> str:
        payload: dict[str, Any] = {  # Any: a JWT's payload is JSON
            "sub": str(user.id),
            "role": user.role.value,
            "aud": AUDIENCE,
            # With milliseconds, to tell which of two tokens issued in the same second is newer.
            "iat": round(self._now(), 3),
            "exp": int(expires),
            "src": sorted(sources),
        }
        if session_at is not None:
            payload[SESSION_CLAIM] = int(session_at)
        payload |= {name: value for name in PROFILE if (value := getattr(user, name))}
        payload.update(claims or {})
        return jwt.encode(payload, self._secret, algorithm="HS256")

    def verify(self, token: str) -> Claims:
        """Verify the signature and the claims of `token`, and return the claims. Raises only BadToken."""
        claims = self._cache.get(token)
        if claims is None:
            claims = self._verify_uncached(token)
            if len(token) <= MAX_CACHED_CHARACTERS and len(claims.sources or ()) <= MAX_CACHED_SOURCES:
                self._cache[token] = claims
                if len(self._cache) > CACHED_TOKENS:
                    self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(token)
        if claims.expires <= self._now():
            raise BadToken("the token has expired")
        return claims

    def _verify_uncached(self, token: str) -> Claims:
        """Like `verify`, but accepts an expired token."""
        try:
            payload, by_public_key = self._decode(token)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise BadToken(f"the token is invalid: {error}") from None
        claims = attrs.evolve(_read_claims(payload, self._now()), token=_fingerprint(token))
        session = payload.get(SIGN_IN_CLAIM)
        if not by_public_key and isinstance(session, str):
            claims = attrs.evolve(claims, session=session)
        session_at = None if by_public_key else _seconds(payload, SESSION_CLAIM)
        if claims.user.id >= FIRST_ANONYMOUS_ID and (session_at is None or claims.user.role is not Role.USER):
            raise BadToken(
                "sub must be below 2^52: higher ids are for anonymous visitors, whose tokens the server issues"
            )
        if session_at is None:
            return claims
        # The maximum age may have been lowered since the token was issued.
        expires = min(claims.expires, session_at + self._session_age)
        return attrs.evolve(claims, expires=expires, session_at=session_at)

    def _decode(self, token: str) -> tuple[Mapping[str, Any], bool]:  # Any: as in `_decode` below
        """Verify the signature, and return the payload and whether the key is a public one."""
        secret_keys = self._secret_keys
        try:
            return _decode(token, secret_keys[0], "HS256"), False
        except jwt.InvalidSignatureError:
            for secret_key in secret_keys[1:]:
                with suppress(jwt.InvalidSignatureError):
                    return _decode(token, secret_key, "HS256"), False
            raise
        except jwt.InvalidAlgorithmError:
            header = jwt.get_unverified_header(token)
            algorithm, kid = header.get("alg"), header.get("kid")
            if algorithm not in ALGORITHMS or not (self._public_keys or self._external is not None):
                raise
        for public_key in (*self._public_keys, *(self._external or ())):
            named = not kid or not public_key.kid or kid == public_key.kid
            if public_key.algorithm == algorithm and named:
                with suppress(jwt.InvalidSignatureError):
                    return _decode(token, public_key.key, algorithm), True
        raise UnknownKey("the token is signed with an unknown key")


def _bytes(secret: str | bytes) -> bytes:
    return secret.encode() if isinstance(secret, str) else secret


def _derived(secret: bytes, purpose: str) -> bytes:
    return hmac.digest(secret, f"actorchat {purpose}".encode(), "sha256")


def _fingerprint(token: str) -> str:
    return hashlib.blake2b(token.encode(), digest_size=12).hexdigest()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


# PyJWT checks the signature and that the payload is an object. `_read_claims` checks the claims, because it uses this
# server's clock and leeway. Unused claims such as `jti` may have any type.
_NO_CLAIMS: Final[Options] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


def _decode(token: str, key: Any, algorithm: str) -> Mapping[str, Any]:  # Any: a key of any type, and JSON
    return jwt.decode(token, key, algorithms=[algorithm], options=_NO_CLAIMS)


def _read_claims(payload: Mapping[str, Any], now: float) -> Claims:  # Any: JSON that is not validated yet
    subject, role, sources = (payload.get(name) for name in ("sub", "role", "src"))
    audience = payload.get("aud")
    if audience != AUDIENCE and not (isinstance(audience, list) and AUDIENCE in audience):
        raise BadToken(f"aud must be {AUDIENCE!r}, or a list that contains it")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject) or int(subject) > _MAX_ID:
        raise BadToken("sub must be a decimal number from 0 to 2^53-1, as a string")
    if role not in tuple(Role):
        raise BadToken(f"role must be {' or '.join(Role)}")
    expires = _seconds(payload, "exp")
    if expires is None:
        raise BadToken("exp is missing: a token must expire")
    issued = _seconds(payload, "iat")
    for name, moment in (("iat", issued), ("nbf", _seconds(payload, "nbf"))):
        if moment is not None and moment > now + _LEEWAY:
            raise BadToken(f"{name} is in the future: the token is not valid yet")
    if sources is not None:
        if not isinstance(sources, list) or len(sources) > _MAX_SOURCES or not all(map(is_source_name, sources)):
            raise BadToken(f"src must be a list of at most {_MAX_SOURCES} source names")
        sources = frozenset(sources)
    rights = payload.get(RIGHTS_CLAIM)
    if rights is not None and rights not in tuple(Rights):
        raise BadToken(f"rights must be {' or '.join(Rights)}")
    profile: dict[str, str] = {}
    for name in PROFILE:
        value = payload.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > _MAX_CLAIM_CHARACTERS or not is_storable(value):
            raise BadToken(f"{name} must be a string of at most {_MAX_CLAIM_CHARACTERS} characters, without NUL")
        profile[name] = value
    user = User(int(subject), Role(role), **profile)
    granted = None if rights is None or user.role is not Role.OPERATOR else Rights(rights)
    return Claims(user, frozenset(profile), sources, expires, issued=issued, rights=granted)


def _seconds(payload: Mapping[str, Any], name: str) -> float | None:  # Any: as in `_read_claims`
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**53:
        raise BadToken(f"{name} must be a number of seconds since 1970")
    return float(value)


def is_storable(text: str) -> bool:
    """Return whether `text` can be stored and sent: it contains no NUL and no lone surrogate."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def anonymous_id(random: Random) -> int:
    """Return a random id from 2^52 to 2^53-1. No other issuer may use these ids."""
    return FIRST_ANONYMOUS_ID + random.randrange(FIRST_ANONYMOUS_ID)


def read_secret(folder: Path) -> bytes:
    """Read the secret in the data folder `folder`, without surrounding white space.

    Raises FileNotFoundError if there is no secret file, OSError if it can't be read, and InvalidSettings if the secret
    is weak or if other users may read the file.
    """
    return _read_secret(folder, SECRET_FILE)


def previous_secret(folder: Path) -> bytes | None:
    """Read the secret that signed until the last rotation, if there is the file `secret.previous` in `folder`.

    Raises what `read_secret` raises, but not FileNotFoundError.
    """
    try:
        return _read_secret(folder, PREVIOUS_SECRET_FILE)
    except FileNotFoundError:
        return None


def _read_secret(folder: Path, name: str) -> bytes:
    path = folder / name
    # O_NONBLOCK: opening a named pipe would wait for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise _secret_fault(f"{path} is not a regular file: delete it, and the server creates a new one")
        if os.name == "posix" and mode & 0o077 and _keeps_modes(folder):
            others = "every user" if mode & 0o007 else "its group"
            raise _secret_fault(
                f"{path} is accessible to {others} (its mode is {stat.S_IMODE(mode):04o}):"
                f" run chmod 600 {shlex.quote(str(path))}, or set ACTORCHAT_SECRET"
            )
        secret = os.read(handle, _MAX_SECRET_BYTES).strip()
    finally:
        os.close(handle)
    if weakness := weakness_of(secret):
        raise _secret_fault(f"{path} is {weakness}: delete it, and the server creates a new one")
    return secret


def _secret_fault(detail: str) -> InvalidSettings:
    return InvalidSettings((SettingFault("secret", detail),))


def _keeps_modes(folder: Path) -> bool:
    """Return whether this file system keeps file modes. A mounted Windows one shows the same mode for every file."""
    draft = _draft(folder)
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return True
    try:
        return not os.fstat(handle).st_mode & 0o077
    finally:
        os.close(handle)
        draft.unlink(missing_ok=True)


def _draft(folder: Path) -> Path:
    return folder / f".{SECRET_FILE}-{secrets.token_hex(8)}"


def new_secret() -> str:
    return secrets.token_urlsafe(48)


def ensure_secret(folder: Path) -> bytes:
    """Read the secret in `folder`; create it first if there is none. Two servers that do so at once get the same one.

    Only the user that runs the server may read the file. Raises what `read_secret` raises, and OSError if the file
    can't be written.
    """
    with drafted_secret(folder) as publish:
        return publish()


@contextmanager
def drafted_secret(folder: Path) -> Iterator[Callable[[], bytes]]:
    """Like `ensure_secret` in two steps: the file is written as a draft here, and kept only if the result is called.

    Most errors are therefore raised on entry, before the caller has done anything that it would have to undo.
    """
    path = folder / SECRET_FILE
    if path.exists():
        secret = read_secret(folder)
        yield lambda: secret
        return
    draft = _draft(folder)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_secret() + "\n")
            file.flush()
            os.fsync(file.fileno())

        def publish() -> bytes:
            _publish(draft, path)
            return read_secret(folder)

        yield publish
    finally:
        draft.unlink(missing_ok=True)


def _publish(draft: Path, path: Path) -> None:
    """Rename the draft to `path`, unless that file exists by now: the first writer wins."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError:
        # The file system has no hard links. If two servers start here for the first time at once, the last writer wins.
        draft.replace(path)


def local_token(
    folder: Path,
    *,
    role: Role,
    user_id: int,
    sources: Collection[str] = (),
    firstname: str = "",
    lastname: str = "",
    ttl: float = 3600.0,
    secret: str | None = None,
) -> str:
    """Return a token that the server with the data folder `folder` accepts. `secret` is the configured one, if any.

    Raises what `read_secret` raises.
    """
    user = User(user_id, role, firstname=firstname, lastname=lastname)
    return Tokens(secret or read_secret(folder)).issue(user, sources, ttl)

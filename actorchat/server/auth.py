"""Signs tokens, and checks tokens that come in: their signature and their claims."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
import secrets
import shlex
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import attrs
import jwt

from actorchat.chat.model import ANONYMOUS_IDS, ENDLESS
from actorchat.chat.operations import RecordPerson
from actorchat.http.source_names import is_source_name
from actorchat.protocol import Role, User
from actorchat.server.settings import InvalidSettings, SettingFault, weakness_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from jwt.types import Options

__all__ = [
    "FOREIGN_IDS",
    "VISITOR_TTL",
    "BadToken",
    "Claims",
    "Tokens",
    "anonymous_id",
    "drafted_secret",
    "ensure_secret",
    "is_storable",
    "load_public_key",
    "local_token",
    "new_secret",
    "read_secret",
]

VISITOR_TTL: Final = 30 * 24 * 3600
"""Seconds that the token of an anonymous visitor lasts. It can be renewed as long as the session lasts."""

SESSION_CLAIM: Final = "sid_at"
"""The claim that says when the session of an anonymous visitor began, in seconds since the epoch. Renewed tokens carry
it on. It means nothing in a token that was not signed with the server's own secret.
"""

AUDIENCE: Final = "actorchat"
SECRET_FILE: Final = "secret"  # noqa: S105 - the name of the file
_LONGEST_SECRET: Final = 65_536
"""Bytes of a secret's file that count."""

PROFILE: Final = ("firstname", "lastname", "patronymic", "avatar")

FOREIGN_IDS: Final = ANONYMOUS_IDS
"""Ids from elsewhere are below this; the server gives the ids from here on to anonymous visitors."""

_SUBJECT: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_MAX_ID: Final = 2**53 - 1
_LEEWAY: Final = 60.0
"""Seconds by which an issuer's clock may be ahead of this machine's. `exp` is exact: sockets end at it too."""

_LONGEST_CLAIM: Final = 2048
_MOST_SOURCES: Final = 1000

REMEMBERED: Final = 4096
LONGEST_REMEMBERED: Final = 2048
"""Characters of a token that is remembered: of all together 8 MiB at most."""
MOST_REMEMBERED_SOURCES: Final = 32
"""Sources that a remembered token claims: what it says takes a few KiB more at most."""


class BadToken(Exception):  # noqa: N818 - it is the token that is bad
    """Absent, not ours, expired or malformed; the text says which, and never quotes the token."""


@attrs.frozen
class Claims:
    """What a token says that was believed. `user` has the claimed profile fields only, `claimed` names them.

    `sources` is None where the token claims none: its bearer sees none now, and what is stored stays.
    `expires` and `session_at` are in seconds since the epoch. `session_at` is when an anonymous visitor's session
    began, None for a token that was not issued by `Tokens.open_session`. `token` identifies the token, without being of
    use to anybody; it is empty if there is none. `issued` is its `iat`.
    """

    user: User
    claimed: frozenset[str]
    sources: frozenset[str] | None
    expires: float
    session_at: float | None = None
    token: str = ""
    issued: float | None = None

    def as_operation(self) -> RecordPerson:
        until = ENDLESS if self.expires >= ENDLESS else ceil(self.expires)
        return RecordPerson(self.user, self.claimed, self.sources, until, self.token, self.issued)


@attrs.frozen
class PublicKey:
    """The key of whoever else may sign tokens, with the one algorithm it is for."""

    algorithm: str
    key: RSAPublicKey | Ed25519PublicKey


class Tokens:
    """Signs with the server's secret; believes that, and the configured public key.

    `now` gives epoch seconds. `session_age` is how many seconds an anonymous visitor's session lasts, however often its
    token is renewed. What the tokens last seen say is remembered: a signature, once good, is not checked again.
    """

    def __init__(
        self,
        secret: str | bytes,
        public_key: PublicKey | None = None,
        *,
        now: Callable[[], float] = time.time,
        session_age: float = VISITOR_TTL,
    ) -> None:
        self._now = now
        self._session_age = session_age
        self._secret = secret.encode() if isinstance(secret, str) else secret
        # Ready for use: PyJWT would look at a string anew each time, whether it is any kind of key.
        self._secret_key = jwt.PyJWK({"kty": "oct", "k": _base64url(self._secret)}, "HS256")
        self._public_key = public_key
        self._seen: OrderedDict[str, Claims] = OrderedDict()

    def issue(self, user: User, sources: Collection[str], ttl: float) -> str:
        """A token for `user`, good for `ttl` seconds; profile fields that are empty are not claimed.

        Raises ValueError for an id that `verify` would refuse.
        """
        highest = _MAX_ID if user.role is Role.USER else FOREIGN_IDS - 1
        if not 0 <= user.id <= highest:
            raise ValueError(f"the id of a {user.role} is 0 to {highest}, got {user.id}")
        now = self._now()
        return self._sign(user, sources, now + ttl, now if user.id >= FOREIGN_IDS else None)

    def open_session(self, user: User, source: str) -> str:
        """A token for a new anonymous visitor, whose session begins now."""
        now = self._now()
        return self._sign(user, (source,), now + min(VISITOR_TTL, self._session_age), now)

    def renew(self, user: User, source: str, *, expires: float, session_at: float | None) -> str:
        """Another token for the bearer of one that ends at `expires`.

        That of an anonymous visitor lasts `VISITOR_TTL` again, but never longer than its session, which began at
        `session_at`. Any other was signed elsewhere, and only its issuer may prolong it: it ends when it would have.
        """
        if session_at is not None:
            expires = min(self._now() + VISITOR_TTL, session_at + self._session_age)
        return self._sign(user, (source,), expires, session_at)

    def _sign(self, user: User, sources: Collection[str], expires: float, session_at: float | None = None) -> str:
        payload: dict[str, Any] = {  # Any: a JWT's payload is JSON
            "sub": str(user.id),
            "role": user.role.value,
            "aud": AUDIENCE,
            # With its fraction: of two tokens of one second the later one's profile is the newer.
            "iat": round(self._now(), 3),
            "exp": int(expires),
            "src": sorted(sources),
        }
        if session_at is not None:
            payload[SESSION_CLAIM] = int(session_at)
        payload |= {name: value for name in PROFILE if (value := getattr(user, name))}
        return jwt.encode(payload, self._secret, algorithm="HS256")

    def verify(self, token: str) -> Claims:
        """What the token claims. Raises BadToken, and nothing else, for whatever is wrong with it."""
        claims = self._seen.get(token)
        if claims is None:
            claims = self._judge(token)
            if len(token) <= LONGEST_REMEMBERED and len(claims.sources or ()) <= MOST_REMEMBERED_SOURCES:
                self._seen[token] = claims
                if len(self._seen) > REMEMBERED:
                    self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(token)
        if claims.expires <= self._now():
            raise BadToken("the token has expired")
        return claims

    def _judge(self, token: str) -> Claims:
        """As `verify`, but for its end."""
        public, foreign = self._public_key, False
        try:
            try:
                payload = _decode(token, self._secret_key, "HS256")
            except jwt.InvalidAlgorithmError:
                if public is None:
                    raise
                foreign = True
                payload = _decode(token, public.key, public.algorithm)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise BadToken(f"the token is not good: {error}") from None
        claims = attrs.evolve(_read(payload, self._now()), token=_fingerprint(token))
        session_at = None if foreign else _seconds(payload, SESSION_CLAIM)
        if claims.user.id >= FOREIGN_IDS and (session_at is None or claims.user.role is not Role.USER):
            raise BadToken("ids in tokens from elsewhere are below 2^52")
        if session_at is None:
            return claims
        # The maximum age may have been lowered since the token was issued.
        expires = min(claims.expires, session_at + self._session_age)
        return attrs.evolve(claims, expires=expires, session_at=session_at)


def _fingerprint(token: str) -> str:
    return hashlib.blake2b(token.encode(), digest_size=12).hexdigest()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


# PyJWT checks the signature and that the payload is an object. Claims are checked below: by this server's own clock,
# with one leeway, and only those that mean something here. A claim that is not used, such as `jti`, may have any type.
_NO_CLAIMS: Final[Options] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


def _decode(
    token: str, key: jwt.PyJWK | RSAPublicKey | Ed25519PublicKey, algorithm: str
) -> Mapping[str, Any]:  # Any: JSON
    return jwt.decode(token, key, algorithms=[algorithm], options=_NO_CLAIMS)


def _read(payload: Mapping[str, Any], now: float) -> Claims:  # Any: JSON that somebody signed, not yet looked at
    subject, role, sources = (payload.get(name) for name in ("sub", "role", "src"))
    audience = payload.get("aud")
    if audience != AUDIENCE and not (isinstance(audience, list) and AUDIENCE in audience):
        raise BadToken(f"aud is {AUDIENCE!r}, or a list that has it")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject) or int(subject) > _MAX_ID:
        raise BadToken("sub is a decimal number from 0 to 2^53-1, as a string")
    if role not in tuple(Role):
        raise BadToken(f"role is {' or '.join(Role)}")
    expires = _seconds(payload, "exp")
    if expires is None:
        raise BadToken("exp is missing: the token has to expire")
    issued = _seconds(payload, "iat")
    for name, moment in (("iat", issued), ("nbf", _seconds(payload, "nbf"))):
        if moment is not None and moment > now + _LEEWAY:
            raise BadToken(f"{name} is in the future: the token is not valid yet")
    if sources is not None:
        if not isinstance(sources, list) or len(sources) > _MOST_SOURCES or not all(map(is_source_name, sources)):
            raise BadToken("src is a list of source names")
        sources = frozenset(sources)
    profile: dict[str, str] = {}
    for name in PROFILE:
        value = payload.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > _LONGEST_CLAIM or not is_storable(value):
            raise BadToken(f"{name} is a string of at most {_LONGEST_CLAIM} characters")
        profile[name] = value
    user = User(int(subject), Role(role), **profile)
    return Claims(user, frozenset(profile), sources, expires, issued=issued)


def _seconds(payload: Mapping[str, Any], name: str) -> float | None:  # Any: as in `_read`
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**53:
        raise BadToken(f"{name} is a number of seconds since 1970")
    return float(value)


def is_storable(text: str) -> bool:
    """Whether a database and a socket can take it: no NUL, no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def anonymous_id(random: Random) -> int:
    """A random id in 2^52 to 2^53-1, where no token from elsewhere reaches."""
    return FOREIGN_IDS + random.randrange(FOREIGN_IDS)


def load_public_key(path: Path) -> PublicKey:
    """Read an RSA (RS256) or Ed25519 (EdDSA) public key in PEM. Raises InvalidSettings if it is none."""
    # Imported here: only who configures a key pays for loading the library.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        pem = path.read_bytes()
        key = load_pem_public_key(pem)
    except OSError as error:
        raise _key_fault(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _key_fault(f"{path} holds no public key in PEM") from None
    if isinstance(key, Ed25519PublicKey):
        return PublicKey("EdDSA", key)
    if isinstance(key, RSAPublicKey) and key.key_size >= 2048:
        return PublicKey("RS256", key)
    raise _key_fault(f"{path}: expected an Ed25519 key, or an RSA key of at least 2048 bits")


def _key_fault(detail: str) -> InvalidSettings:
    return InvalidSettings((SettingFault("public_key", detail),))


def read_secret(folder: Path) -> bytes:
    """The secret of the server that keeps its files in `folder`: the bytes of its file, without white space around.

    Raises FileNotFoundError if none was ever made there, other OSErrors, InvalidSettings if it is weak or if others may
    read it.
    """
    path = folder / SECRET_FILE
    # Without waiting for a writer, should it be a pipe.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise _secret_fault(f"{path} is no regular file: delete it, and the server makes a new one")
        if os.name == "posix" and mode & 0o077 and _keeps_modes(folder):
            others = "everybody" if mode & 0o007 else "its group"
            raise _secret_fault(
                f"{path} may be used by {others} (its mode is {stat.S_IMODE(mode):04o}):"
                f" type chmod 600 {shlex.quote(str(path))}, or set ACTORCHAT_SECRET"
            )
        secret = os.read(handle, _LONGEST_SECRET).strip()
    finally:
        os.close(handle)
    if weakness := weakness_of(secret):
        raise _secret_fault(f"{path} is {weakness}: delete it, and the server makes a new one")
    return secret


def _secret_fault(detail: str) -> InvalidSettings:
    return InvalidSettings((SettingFault("secret", detail),))


def _keeps_modes(folder: Path) -> bool:
    """Whether files of this file system have modes: those that come from Windows show the same one for all."""
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
    """`read_secret`, making one first where there is none; two servers that do so at once get the same.

    Only the user who runs the server may read the file. Raises OSError if it can't be written.
    """
    with drafted_secret(folder) as publish:
        return publish()


@contextmanager
def drafted_secret(folder: Path) -> Iterator[Callable[[], bytes]]:
    """As `ensure_secret`, which is what the result does when it is called; without that no new secret stays behind.

    What can fail fails at the beginning, as a rule.
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
    """Give the draft its name, unless something has that name: the first writer wins."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError:
        # A file system without hard links; there a race of two first starts leaves the later one's secret.
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
    """A token that the server with its files in `folder` believes. `secret` is the configured one, if any.

    Raises what `read_secret` raises.
    """
    user = User(user_id, role, firstname=firstname, lastname=lastname)
    return Tokens(secret or read_secret(folder)).issue(user, sources, ttl)

"""Reads the public keys of other issuers of tokens: from PEM files, and from JSON Web Key Sets."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import jwt

from actorchat.server.settings import InvalidSettings, SettingFault, Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = [
    "ALGORITHMS",
    "MAX_KEYS",
    "InvalidKeySet",
    "PublicKey",
    "load_public_key",
    "load_public_keys",
    "read_key_set",
]

ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
"""Algorithms of public keys."""

MAX_KEYS: Final = 100
"""Keys of a key set."""

_MAX_KID: Final = 256
_LEAST_RSA_BITS: Final = 2048

_log: Final = logging.getLogger("actorchat.server")


@attrs.frozen
class PublicKey:
    """The key of another issuer, with the only algorithm that it is used with. `kid` is its id, "" if it has none."""

    algorithm: str
    key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
    kid: str = ""


class InvalidKeySet(ValueError):  # noqa: N818 - describes a value
    """This is not a JSON Web Key Set with a key that can be used. The text says why."""


def load_public_key(path: Path, kid: str = "", *, setting: str = "public_key") -> PublicKey:
    """Read an RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA) public key in PEM.

    Raises InvalidSettings, with a fault of `setting`, if the file holds none of them.
    """
    # Imported here because loading the library is slow, and most deployments have no public key.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        pem = path.read_bytes()
        key = load_pem_public_key(pem)
    except OSError as error:
        raise _fault(setting, f"{path} can't be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _fault(setting, f"{path} does not contain a public key in PEM") from None
    found = _public_key(key, kid)
    if found is None:
        raise _fault(setting, f"{path}: expected an Ed25519 or P-256 key, or an RSA key of at least 2048 bits")
    return found


def load_public_keys(settings: Settings) -> tuple[PublicKey, ...]:
    """Read all public keys that the settings name. Raises InvalidSettings with all faults."""
    named: list[tuple[str, str, Path]] = []
    if settings.public_key is not None:
        named.append(("public_key", "", settings.public_key))
    for entry in settings.keys.public:
        kid, _, name = entry.rpartition("=")
        named.append(("keys.public", kid, Path(name).expanduser()))
    keys: list[PublicKey] = []
    faults: list[SettingFault] = []
    for setting, kid, path in named:
        try:
            keys.append(load_public_key(path, kid, setting=setting))
        except InvalidSettings as error:
            faults.extend(error.faults)
    if faults:
        raise InvalidSettings(tuple(faults))
    return tuple(keys)


def _fault(setting: str, detail: str) -> InvalidSettings:
    return InvalidSettings((SettingFault(setting, detail),))


def _public_key(key: object, kid: str) -> PublicKey | None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(key, Ed25519PublicKey):
        return PublicKey("EdDSA", key, kid)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return PublicKey("ES256", key, kid)
    if isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
        return PublicKey("RS256", key, kid)
    return None


def read_key_set(value: object) -> tuple[PublicKey, ...]:
    """Return the keys of a decoded JSON Web Key Set that can be used. Keys for other purposes are left out.

    Raises InvalidKeySet if there are none, or too many.
    """
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise InvalidKeySet("expected an object with a list of keys")
    if len(entries) > MAX_KEYS:
        raise InvalidKeySet(f"a key set may have at most {MAX_KEYS} keys, this one has {len(entries)}")
    keys = tuple(_usable(entries))
    if not keys:
        raise InvalidKeySet("it has no key for RS256, ES256 or EdDSA")
    return keys


def _usable(entries: Iterable[object]) -> Iterable[PublicKey]:
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or "d" in entry:
            continue
        key = _from_jwk(entry)
        if key is not None and entry.get("use", "sig") == "sig" and entry.get("alg", key.algorithm) == key.algorithm:
            yield key


def _from_jwk(entry: dict[str, Any]) -> PublicKey | None:  # Any: JSON
    kid = entry.get("kid", "")
    if not isinstance(kid, str) or len(kid) > _MAX_KID:
        return None
    try:
        # The algorithm is that of the key's type, whatever `alg` says.
        algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[entry["kty"]]
        return _public_key(jwt.PyJWK(entry, algorithm).key, kid)
    except (jwt.PyJWTError, ValueError, TypeError, LookupError):
        _log.warning("the key %.*r of the key set can't be read, and is ignored", _MAX_KID, kid)
        return None

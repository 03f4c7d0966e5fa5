"""Makes the credentials with which a NATS client authenticates: user and password, a token, or a key from a file."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from actorchat.brokers.ports import BrokerUnavailable
from actorchat.brokers.urls import BrokerUrl

__all__ = ["credentials"]

_BLOCK: Final = re.compile(r"-+BEGIN [A-Z ]+-+\s+(\S+)\s+-+END [A-Z ]+-+")
_SEED: Final = 18 << 3
_USER: Final = 20 << 3


def credentials(url: BrokerUrl, nonce: str) -> dict[str, object]:
    """The options of `CONNECT` that authenticate the user of `url`. Raises `BrokerUnavailable`."""
    if url.creds is not None:
        return _from_file(url.creds, nonce)
    if url.username is not None:
        return {"user": url.username, "pass": url.password}
    return {"auth_token": url.password} if url.password else {}


def _from_file(path: Path, nonce: str) -> dict[str, object]:
    """Sign `nonce` with the key in a file as `nsc` writes it, with a JWT, or as `nk` does, without."""
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise BrokerUnavailable(f"the file of its credentials can't be read: {error}") from None
    blocks = _BLOCK.findall(text)
    seed = blocks[-1] if blocks else text.strip()
    try:
        key = _key(seed)
    except (ValueError, IndexError, binascii.Error):
        raise BrokerUnavailable(f"{path} has no key of a NATS user") from None
    signature = base64.urlsafe_b64encode(key.sign(nonce.encode())).rstrip(b"=").decode()
    if len(blocks) > 1:
        return {"jwt": blocks[0], "sig": signature}
    return {"nkey": _public(key), "sig": signature}


def _key(seed: str) -> Ed25519PrivateKey:
    raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    *content, low, high = raw
    if binascii.crc_hqx(bytes(content), 0) != low | high << 8:
        raise ValueError("its check sum is wrong")
    # The first five bits mark a seed, the next eight the kind of its owner.
    if raw[0] & 0xF8 != _SEED or (raw[0] & 7) << 5 | raw[1] >> 3 != _USER:
        raise ValueError("it is the seed of something else")
    return Ed25519PrivateKey.from_private_bytes(bytes(content[2:]))


def _public(key: Ed25519PrivateKey) -> str:
    content = bytes([_USER]) + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    check = binascii.crc_hqx(content, 0)
    return base64.b32encode(content + check.to_bytes(2, "little")).rstrip(b"=").decode()

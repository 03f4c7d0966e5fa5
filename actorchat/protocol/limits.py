"""Owns the bounds the wire sets, and the defaults of those a deployment may change.

Refuses to know what a server does with who exceeds them.
"""

from typing import Final

MAX_FRAME_BYTES: Final = 65_536
"""A message larger than this after reassembly closes the socket with 1009."""

MAX_SAFE_INTEGER: Final = 2**53
"""Integers beyond this either way do not survive a JavaScript client: malformed."""

MAX_CLIENT_ID_CHARS: Final = 64
DEFAULT_MAX_TEXT_CHARS: Final = 4_000
DEFAULT_MAX_ATTACHMENTS: Final = 10

MALFORMED_IN_A_ROW: Final = 3
"""This many malformed frames without a valid one between them close the socket with 1008."""

MAX_CONTROL_BYTES: Final = 125
"""RFC 6455: the payload of a ping, pong or close; a close spends two of them on its code."""

MAX_FAULTS: Final = 32
"""Faults told of one value; a hostile frame could hold tens of thousands."""

"""Defines the limits of the protocol, and the defaults of those that a deployment may change."""

from typing import Final

MAX_FRAME_BYTES: Final = 65_536
"""A message larger than this after reassembly closes the socket with 1009."""

MAX_SAFE_INTEGER: Final = 2**53
"""Integers above this, or below its negative, are malformed: JavaScript can't represent them exactly."""

MAX_CLIENT_ID_CHARS: Final = 64
"""The largest length of a `client_id`, in characters."""

DEFAULT_MAX_TEXT_CHARS: Final = 4_000
"""The largest length of a message's text, in characters, unless the settings say otherwise."""

DEFAULT_MAX_ATTACHMENTS: Final = 10
"""The largest number of attachments of a message, unless the settings say otherwise."""

MAX_SUMMARY_CHARS: Final = 160
"""How much of the last message's text a summary has, in characters."""

MAX_TAG_CHARS: Final = 40
"""The largest length of a chat's tag, in characters."""

MAX_TAGS: Final = 20
"""The largest number of tags of a chat."""

MALFORMED_IN_A_ROW: Final = 3
"""The number of malformed frames in a row that closes the socket with 1008."""

MAX_CONTROL_BYTES: Final = 125
"""The largest payload of a ping, pong or close in bytes (RFC 6455); a close uses two of them for its code."""

MAX_FAULTS: Final = 32
"""The largest number of faults reported for one value. A hostile frame could have tens of thousands."""

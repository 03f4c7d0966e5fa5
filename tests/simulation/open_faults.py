"""Kinds of violations that the server is known for until their faults are fixed. A kind goes from here with its fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["OPEN_FAULTS"]

OPEN_FAULTS: Final[Mapping[str, str]] = {
    "refused-though-stored": "a repeated client_id is refused before its key is looked at",
    "client-repeat-first": "the client takes the answer to a repeated key for the room's next message",
    "client-story": "as above: what the answer overtook is dropped as known",
    "key-reuse": "the client settles a key that was used for another text as stored",
    "marks-refused": "the client forgets a mark that was answered with a retryable error",
    "stored-twice": "not understood yet",
    "silent-peer": "not understood yet",
    "typing-overflow": "a full outbox drops the stop of typing, and it is never told again",
    "feed-order": "a commit in doubt, or a crashed room, with a console connecting",
    "feed-order-after-crash": "as above",
    "counters-first": "as above",
    "counters-first-after-crash": "as above",
    "chat-repeat": "as above: chat_updated is told twice",
    "drain-over-crash": "draining overtakes the recovery of a crashed room",
}
"""By kind: what is wrong."""

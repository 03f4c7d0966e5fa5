"""Decides which files a widget source accepts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from actorchat.protocol import AttachmentType

__all__ = ["PROGRAM", "FileRule", "FileRules"]

PROGRAM: Final = "application/x-executable"
"""The media type of files that an operating system may run."""


@attrs.frozen
class FileRule:
    """Which files are accepted: at most `size` bytes each, and at most `per_message` in a message.

    `types` are `image`, `video`, `audio`, `file` (all other files except programs), `program`, and media types.
    """

    size: int
    types: frozenset[str]
    per_message: int

    def accepts(self, kind: AttachmentType, media_type: str) -> bool:
        """Whether files of this type are accepted."""
        if media_type == PROGRAM:
            return "program" in self.types
        return kind.value in self.types or media_type in self.types


def _read_only(rules: Mapping[str, FileRule]) -> Mapping[str, FileRule]:
    return MappingProxyType(dict(rules))


@attrs.frozen
class FileRules:
    """The rules of all widget sources: `general`, and those of the sources that have their own."""

    general: FileRule
    by_source: Mapping[str, FileRule] = attrs.field(factory=dict, converter=_read_only)

    def of(self, source: str) -> FileRule:
        """The rule for messages in chats of this source."""
        return self.by_source.get(source, self.general)

    def for_upload(self, sources: Collection[str]) -> FileRule:
        """The rule for a file that may be meant for any of `sources`, or for any source at all if there are none.

        It accepts whatever one of them accepts. A message is decided by the rule of its chat.
        """
        rules = [self.of(source) for source in sources] or [self.general, *self.by_source.values()]
        return FileRule(
            max(rule.size for rule in rules),
            frozenset().union(*(rule.types for rule in rules)),
            max(rule.per_message for rule in rules),
        )

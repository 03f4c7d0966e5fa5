"""Validates the names of widget sources."""

import re
from typing import Annotated, Final

from msgspec import Meta

__all__ = ["SourceName", "is_source_name"]

SourceName = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}\Z")]
"""The name of a source in a JSON body."""

_NAME: Final = re.compile(r"[a-z0-9_-]{1,64}")


def is_source_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None

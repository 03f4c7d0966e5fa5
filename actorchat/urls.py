"""Hides what is secret in URLs, before they are shown in errors, logs and reprs."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["without_secrets"]

_USER: Final = re.compile(r"(?<=://)([^\s/?#:@]*)(:?).*@", re.DOTALL)
"""Up to the last @: passwords that should have been quoted hold every character."""

_PARAMETER: Final = re.compile(r"(?i)((?:^|[?&;\s])[\w.-]*(?:pass|pwd|secret|token|key|credential)[\w.-]*=)[^&;\s]*")


def without_secrets(text: str) -> str:
    """`text`, which may be or hold a URL, with `***` for its password and for parameters that are called like one.

    A user name is kept if a password follows it; alone it may be a token.
    """
    shown = _USER.sub(lambda found: f"{found[1]}:***@" if found[1] and found[2] else "***@", text)
    return _PARAMETER.sub(r"\1***", shown)

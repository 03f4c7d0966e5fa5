"""Removes passwords and tokens from URLs before they are shown in errors, logs and reprs."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["without_secrets"]

_CREDENTIALS: Final = re.compile(r"(?<=://)([^\s/?#:@]*)(:?).*@", re.DOTALL)
"""Matches up to the last @, because a password that was not percent-encoded may contain any character."""

_SECRET_PARAMETER: Final = re.compile(
    r"(?i)((?:^|[?&;\s])[\w.-]*(?:pass|pwd|secret|token|key|credential)[\w.-]*=)[^&;\s]*"
)


def without_secrets(text: str) -> str:
    """Return `text` with `***` in place of passwords in URLs and of parameters named like `token` or `secret`.

    A user name stays if a password follows it; without one it is hidden too, because it may be a token.
    """
    shown = _CREDENTIALS.sub(lambda match: f"{match[1]}:***@" if match[1] and match[2] else "***@", text)
    return _SECRET_PARAMETER.sub(r"\1***", shown)

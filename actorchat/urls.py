"""Checks the hosts and schemes of URLs, and removes passwords and tokens from URLs before they are shown."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_host", "names_postgres", "without_secrets"]

_MAX_HOST_BYTES: Final = 253

_CREDENTIALS: Final = re.compile(r"(\bpostgres(?:ql)?)?://([^\s/?#:@]*)(:?)(.*)@", re.DOTALL)
"""Matches up to the last @, because a password that was not percent-encoded may contain any character."""

_SECRET_PARAMETER: Final = re.compile(
    r"(?i)((?:^|[?&;\s])[\w.-]*(?:pass|pwd|secret|token|key|credential)[\w.-]*=)[^&;\s]+"
)


def is_host(host: str) -> bool:
    """Return whether `host` can be looked up: it is an IP address or has the form of a name."""
    try:
        # A lookup encodes the name like this, and raises the same error.
        return host.isprintable() and 0 < len(host.encode("idna")) <= _MAX_HOST_BYTES
    except UnicodeError:
        return False


def names_postgres(url: str) -> bool:
    """Whether `url` has a scheme of PostgreSQL: libpq takes two, and hosting companies often give the shorter one."""
    return url.startswith(("postgresql://", "postgres://"))


def without_secrets(text: str) -> str:
    """Return `text` with `***` in place of passwords in URLs and of parameters named like `token` or `secret`.

    A user name stays if a password follows it; without one it is hidden too, because it may be a token, unless the URL
    is one of PostgreSQL, which has no tokens.
    """
    return _SECRET_PARAMETER.sub(r"\1***", _CREDENTIALS.sub(_hide_credentials, text))


def _hide_credentials(match: re.Match[str]) -> str:
    postgres, user, colon, password = match.groups(default="")
    if postgres and not password:
        return match[0]
    return f"{postgres}://{user}:***@" if user and colon else f"{postgres}://***@"

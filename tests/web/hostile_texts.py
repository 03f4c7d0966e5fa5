"""Texts that must be shown as text, and must not break a layout."""

from __future__ import annotations

from typing import Final

__all__ = ["HOSTILE", "MARKUP"]

MARKUP: Final = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"

HOSTILE: Final = (
    "{{7*7}} ${7*7} javascript:document.title='hacked' &lt;b&gt;",
    "left \u202eright\u202c \u2066isolated\u2069",
    "😀" * 4000,
    "endless" * 570,
    "zero\u200bwidth\ufeff joined",
    "many\n" * 200,
)

"""Renders what the pages of both documents share: the frame of a page, and JSON Schemas as tables."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

__all__ = [
    "code",
    "content_security_policy",
    "example",
    "fields_table",
    "page",
    "prose",
    "schema_sections",
    "table",
    "type_of",
]

# Any: JSON Schema is JSON of every shape.
Schema = Mapping[str, Any]

_CODE: Final = re.compile(r"`([^`]+)`")


def content_security_policy(style: str) -> str:
    """Return a policy that allows a page its own `style` and nothing else: no scripts, no pictures, no requests."""
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-{digest}'"
    )


def page(title: str, style: str, navigation: Sequence[tuple[str, str, bool]], content: Iterable[str]) -> bytes:
    """Return a whole page. `navigation` has the address and title of each page, and whether it is this one."""
    links = "".join(
        f'<a href="{escape(address)}"{" aria-current=page" if current else ""}>{escape(text)}</a>'
        for address, text, current in navigation
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><nav>{links}</nav>"
        f"<main>{''.join(content)}</main></body></html>"
    ).encode()


def code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def prose(text: str) -> str:
    """Return a paragraph. Text in backticks becomes code."""
    return f"<p>{_inline(text)}</p>" if text else ""


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text, quote=False))


def example(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False), quote=False)}</pre>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already, "" without rows."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def type_of(schema: Schema) -> str:
    """Return what values a schema allows, with links to named schemas."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(json.dumps(value)) for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(map(type_of, schema[key]))
    if "allOf" in schema:
        return type_of(schema["allOf"][0])
    if schema.get("type") == "array":
        return f"array of {type_of(schema.get('items', {}))}"
    if "contentMediaType" in schema:
        return "file"
    name = escape(str(schema.get("type", "any value")))
    return f"{name} ({escape(schema['format'])})" if "format" in schema else name


_LIMITS: Final = {
    "minimum": "at least",
    "maximum": "at most",
    "minLength": "characters at least",
    "maxLength": "characters at most",
    "pattern": "matches",
    "default": "default",
}


def _about(schema: Schema) -> str:
    limits = "; ".join(
        f"{text} {code(str(schema[key]))}" for key, text in _LIMITS.items() if schema.get(key) is not None
    )
    parts = (_inline(schema.get("description", "")), limits, _extended(schema))
    return " ".join(filter(None, parts))


def _extended(schema: Schema) -> str:
    return '<span class="tag">extended</span>' if schema.get("x-profile") == "extended" else ""


def fields_table(schema: Schema) -> str:
    """Return a table of the fields of an object, "" if it has none."""
    required = schema.get("required", ())
    rows = [
        (code(name), type_of(field), "" if name in required else "optional", _about(field))
        for name, field in schema.get("properties", {}).items()
    ]
    return table(("field", "type", "", "meaning"), rows)


def schema_sections(schemas: Mapping[str, Schema]) -> Iterable[str]:
    """Yield a section for each named schema, which `type_of` links to."""
    yield "<h2>Schemas</h2>"
    for name, schema in sorted(schemas.items()):
        yield f'<h3 id="schema-{escape(name)}">{escape(name)} {_extended(schema)}</h3>'
        yield prose(schema.get("description", ""))
        yield fields_table(schema) or f"<p>{type_of(schema)}</p>"

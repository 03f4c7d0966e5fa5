"""Renders the OpenAPI and AsyncAPI documents as HTML pages that load nothing else and need no scripts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final

from actorchat.http.documentation_html import (
    code,
    content_security_policy,
    example,
    fields_table,
    page,
    prose,
    schema_sections,
    table,
    type_of,
)
from actorchat.http.openapi import openapi_document
from actorchat.protocol import asyncapi_document

__all__ = ["page_headers", "render_pages"]

# Any: the documents are JSON of every shape.
Document = Mapping[str, Any]

_CHANNELS: Final = {"chat": "chat", "operators": "operators"}


def render_pages() -> Mapping[str, bytes]:
    """Return the pages by the name of what they describe: "http" and "websockets"."""
    style = files("actorchat.http").joinpath("documentation.css").read_text(encoding="utf-8")
    return {
        "http": page("actorchat: HTTP API", style, _navigation("", "docs"), _http_page(openapi_document())),
        "websockets": page(
            "actorchat: Websockets", style, _navigation("../", "docs/websockets"), _events_page(asyncapi_document())
        ),
    }


def page_headers() -> Mapping[str, str]:
    style = files("actorchat.http").joinpath("documentation.css").read_text(encoding="utf-8")
    return {
        "Content-Security-Policy": content_security_policy(style),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _navigation(up: str, current: str) -> Sequence[tuple[str, str, bool]]:
    # Links between the pages are relative, so that they work below any path of a proxy.
    pages = {
        "docs": "HTTP API",
        "docs/websockets": "Websockets and brokers",
        "openapi.json": "OpenAPI document",
        "asyncapi.json": "AsyncAPI document",
    }
    return [(f"{up}{address}", title, address == current) for address, title in pages.items()]


def _http_page(document: Document) -> Iterable[str]:
    yield f"<h1>HTTP API</h1>{prose(document['info']['description'])}"
    operations: defaultdict[str, list[str]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operations[operation["tags"][0]].append("".join(_http_operation(method, path, operation)))
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2>{prose(tag['description'])}"
        yield from operations[tag["name"]]
    yield from schema_sections(document["components"]["schemas"])


def _http_operation(method: str, path: str, operation: Document) -> Iterable[str]:
    yield f'<details id="{escape(operation["operationId"])}"><summary><span class="method">{method.upper()}</span> '
    yield f"{code(path)} <small>{escape(operation['summary'])}</small></summary>"
    yield prose(operation.get("description", ""))
    yield prose(_token(operation.get("security")))
    parameters = [
        (
            code(parameter["name"]),
            str(parameter["in"]),
            type_of(parameter["schema"]),
            prose(parameter.get("description", "")),
        )
        for parameter in operation.get("parameters", ())
    ]
    yield table(("parameter", "in", "type", "meaning"), parameters)
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        yield f"<h3>Body</h3><p>{code(media_type)}: {type_of(schema)}</p>{fields_table(schema)}"
    yield "<h3>Answers</h3>"
    rows: list[tuple[str, str, str]] = []
    for status, response in operation["responses"].items():
        contents = response.get("content", {})
        shown = "; ".join(
            type_of(each["schema"]) if name == "application/json" else code(name) for name, each in contents.items()
        )
        codes = [part["properties"]["error"]["properties"]["code"]["enum"] for part in _error_parts(contents)]
        meaning = ", ".join(code(name) for each in codes for name in each) or escape(response["description"])
        rows.append((status, shown, meaning))
    yield table(("status", "body", "meaning or codes"), rows)
    yield "</details>"


def _error_parts(contents: Document) -> Sequence[Document]:
    parts: Sequence[Document] = contents.get("application/json", {}).get("schema", {}).get("allOf", ())[1:]
    return parts


def _token(security: Sequence[Document] | None) -> str:
    if security is None:
        return ""
    return "The token is optional." if security else "Needs no token."


def _events_page(document: Document) -> Iterable[str]:
    yield f"<h1>Websockets and brokers</h1>{prose(document['info']['description'])}"
    yield '<p>What is marked <span class="tag">extended</span> needs the subprotocol <code>actorchat.v1.ext</code>.</p>'
    messages = document["components"]["messages"]
    received = _received(document)
    for name, channel in document["channels"].items():
        yield f"<h2>{escape(channel.get('title', 'Broker channel'))}</h2><p>{code(channel['address'])}</p>"
        query = channel.get("bindings", {}).get("ws", {}).get("query")
        if query:
            yield f"<h3>Query parameters</h3>{fields_table(query)}"
        for key in channel["messages"]:
            direction = "client" if (name, key) in received else "server"
            yield "".join(_event(messages[key], direction if name in _CHANNELS else "broker"))
    yield from schema_sections(document["components"]["schemas"])


def _received(document: Document) -> set[tuple[str, str]]:
    """The channel and name of each message that the server receives."""
    found: set[tuple[str, str]] = set()
    for operation in document["operations"].values():
        if operation["action"] == "receive":
            channel = operation["channel"]["$ref"].rpartition("/")[2]
            found.update((channel, message["$ref"].rpartition("/")[2]) for message in operation["messages"])
    return found


def _event(message: Document, direction: str) -> Iterable[str]:
    extended = ' <span class="tag">extended</span>' if message.get("x-profile") == "extended" else ""
    yield f'<details><summary><span class="method">{direction}</span> {code(message["name"])}{extended} '
    yield f"<small>{escape(message['summary'])}</small></summary>"
    payload = message["payload"]
    data = payload.get("properties", {}).get("data", payload)
    yield f"<p>{type_of(data)}</p>"
    if "headers" in message:
        yield f"<h3>Headers</h3>{fields_table(message['headers'])}"
    for each in message.get("examples", ()):
        yield example(each["payload"])
    yield "</details>"

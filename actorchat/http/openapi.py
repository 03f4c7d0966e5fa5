"""Generates the OpenAPI 3.1 document of the HTTP API from the endpoints and the classes that validate with."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from types import UnionType
from typing import Any, Final, get_args

import msgspec

from actorchat.http.answers import ErrorAnswer
from actorchat.http.endpoint_descriptions import Access, Endpoint
from actorchat.http.endpoints import ENDPOINTS
from actorchat.http.idempotency import KEY_PATTERN
from actorchat.http.problems import STATUSES
from actorchat.protocol.schemas import Schema, component_schemas

__all__ = ["openapi_document"]

_REF: Final = "#/components/schemas/{name}"
_PATH_PARAMETER: Final = re.compile(r"{(\w+)(?::(\w+))?}")
_PATH_SCHEMAS: Final[dict[str, Schema]] = {
    "uuid": {"type": "string", "format": "uuid"},
    "int": {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
    "": {"type": "string", "pattern": "^[a-z0-9_-]{1,64}$"},
}
_PATH_DESCRIPTIONS: Final = {
    "chat": "The chat's uuid.",
    "message": "The message's id.",
    "file": "The attachment's uuid.",
    "person": "The id of the person.",
    "reply": "The id of the saved reply.",
    "source": "The name of the widget source.",
    "block": "The block's id.",
    "account": "The operator's id.",
}
_TAGS: Final = {
    "Visitors": "How a page begins a chat.",
    "Chats": "Chats and their operators. A visitor sees its own chats, an operator those of its sources.",
    "Messages": "The history of a chat.",
    "Files": "Files in messages.",
    "Operators": "Operators and their state.",
    "People": "Export and erasure of single people, with records.",
    "Administration": "Accounts, tags, live actors and numbers.",
    "Server": "Health, metrics and documents.",
}
_EVERYWHERE: Final = ("malformed", "timeout", "internal", "overloaded", "storage_unavailable", "draining")
"""Codes that every endpoint under /api may answer with."""

_LINKS: Final = {
    "POST /api/visitors": ("chat", "$response.body#/chat/uuid"),
    "POST /api/chats": ("chat", "$response.body#/uuid"),
    "POST /api/chats/{chat:uuid}/messages": ("message", "$response.body#/id"),
}
"""The ids that other endpoints take as path parameters: the name, and where the answer has the id."""

_REPLAYED: Final = {"Idempotency-Replayed": "`true` if this answers an earlier call with the same `Idempotency-Key`."}

_STATUS_TEXTS: Final = {
    400: "The body is not JSON, or a query parameter is wrong or unknown.",
    401: "The token is missing, invalid or expired.",
    403: "The caller may not do this.",
    404: "It does not exist.",
    408: "The body took too long.",
    409: "The state does not allow it.",
    413: "The body is too large.",
    422: "A field is wrong.",
    429: "Too many requests.",
    500: "The server failed.",
    503: "The server can't do this now.",
}


def openapi_document(base_path: str = "") -> dict[str, object]:
    """Return a new copy of the document, ready for JSON. `base_path` is the path below which the server is reached."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chat API",
            "version": version("actorchat"),
            "description": "Live customer chat over HTTP. Events arrive over websockets, which the AsyncAPI document"
            " describes. Codes of errors are stable; their details may change.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_path or "/", "description": "This server"}],
        "security": [{"token": []}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _paths() -> Schema:
    paths: defaultdict[str, Schema] = defaultdict(dict)
    for (method, path), endpoint in ENDPOINTS.items():
        plain = _PATH_PARAMETER.sub(r"{\1}", path)
        paths[plain][method.lower()] = _operation(method, path, endpoint)
    return dict(paths)


def _operation(method: str, path: str, endpoint: Endpoint) -> Schema:
    operation: Schema = {
        "operationId": _operation_id(endpoint.summary),
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
    }
    description = " ".join(filter(None, ("For operators." if endpoint.operators else "", endpoint.description)))
    if description:
        operation["description"] = description
    if parameters := [*_path_parameters(path), *_query_parameters(endpoint), *_header_parameters(endpoint)]:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        content = {"application/json": {"schema": _schema(endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.upload:
        file = {"contentMediaType": "application/octet-stream", "description": "The file, not empty."}
        form = {"type": "object", "properties": {"file": file}, "required": ["file"]}
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    operation["responses"] = _responses(method, path, endpoint)
    if endpoint.access is not Access.TOKEN:
        operation["security"] = [{}, {"token": []}] if endpoint.access is Access.OPTIONAL else []
    return operation


def _operation_id(summary: str) -> str:
    words: list[str] = re.findall(r"[A-Za-z]+", summary)
    return words[0].lower() + "".join(word.capitalize() for word in words[1:])


def _path_parameters(path: str) -> Iterable[Schema]:
    for name, kind in _PATH_PARAMETER.findall(path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_DESCRIPTIONS[name],
            "schema": _PATH_SCHEMAS[kind],
        }


def _query_parameters(endpoint: Endpoint) -> Iterable[Schema]:
    for parameter in endpoint.parameters:
        yield {
            "name": parameter.name,
            "in": "query",
            "description": parameter.description,
            "schema": dict(parameter.schema),
        }


def _header_parameters(endpoint: Endpoint) -> Iterable[Schema]:
    if endpoint.repeatable:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Makes the call safe to repeat: with the same key, it is answered like the first one, with"
            " the header `Idempotency-Replayed`, and does nothing again. For a day, or until the server restarts.",
            "schema": {"type": "string", "pattern": f"^{KEY_PATTERN}$"},
        }


def _responses(method: str, path: str, endpoint: Endpoint) -> Schema:
    responses: Schema = {}
    for status, body in endpoint.answers.items():
        response: Schema = {"description": endpoint.summary}
        if isinstance(body, str):
            response["content"] = {body: {"schema": {}}}
        elif body is not None:
            response["content"] = {"application/json": {"schema": _schema(body)}}
        headers = {**endpoint.headers, **(_REPLAYED if endpoint.repeatable else {})}
        if headers:
            response["headers"] = {
                name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
            }
        responses[str(status)] = response
    for name, links in _LINKS.items():
        if f"{method} {path}" == name:
            for status in endpoint.answers:
                responses[str(status)]["links"] = _links(*links)
    for status, codes in sorted(_refusals(path, endpoint).items()):
        responses[str(status)] = _refusal(status, codes)
    return responses


def _links(parameter: str, value: str) -> Schema:
    """Links to all endpoints that take `parameter`."""
    return {
        _operation_id(endpoint.summary): {
            "operationId": _operation_id(endpoint.summary),
            "parameters": {f"path.{parameter}": value},
        }
        for (_, path), endpoint in ENDPOINTS.items()
        if f"{{{parameter}:" in path
    }


def _refusals(path: str, endpoint: Endpoint) -> dict[int, list[str]]:
    """The codes of errors by status."""
    codes = dict.fromkeys(endpoint.refusals)
    # A page of an origin that is not allowed is refused everywhere.
    codes |= dict.fromkeys(("not_allowed", "internal"))
    if endpoint.repeatable:
        # The key was used for another request.
        codes["conflict"] = None
    found: defaultdict[int, list[str]] = defaultdict(list)
    if path.startswith("/api/"):
        codes |= dict.fromkeys(_EVERYWHERE)
        # Only bodies have fields; query parameters and bodies that are not JSON have a status of their own.
        found[400].append("malformed")
        if endpoint.body is None and not endpoint.upload:
            del codes["malformed"]
        if endpoint.access is not Access.PUBLIC:
            codes["not_authenticated"] = None
            if not endpoint.operators:
                # Only visitors are blocked.
                codes["blocked"] = None
        if _PATH_PARAMETER.search(path):
            codes |= dict.fromkeys(("not_found", "not_participant"))
        codes["too_large"] = None
    for code in codes:
        found[STATUSES[code]].append(code)
    return found


def _refusal(status: int, codes: list[str]) -> Schema:
    schema = {
        "allOf": [
            {"$ref": _REF.format(name=ErrorAnswer.__name__)},
            {"properties": {"error": {"properties": {"code": {"enum": sorted(codes)}}}}},
        ]
    }
    response: Schema = {
        "description": _STATUS_TEXTS[status],
        "content": {"application/json": {"schema": schema}},
    }
    if status in (429, 503):
        text = "Seconds after which the request may be repeated."
        response["headers"] = {"Retry-After": {"description": text, "schema": {"type": "string"}}}
    return response


def _schema(body: Any) -> Schema:  # Any: a a class, or a list or union of classes
    if body is dict:
        return {"type": "object"}
    if isinstance(body, UnionType):
        return {"anyOf": [_schema(each) for each in get_args(body)]}
    if items := get_args(body):
        return {"type": "array", "items": _schema(items[0])}
    return {"$ref": _REF.format(name=body.__name__)}


def _classes(body: Any) -> Iterable[type]:  # Any: as in `Endpoint.answers`
    if isinstance(body, UnionType) or get_args(body):
        for each in get_args(body):
            yield from _classes(each)
    elif isinstance(body, type) and body is not dict:
        yield body


def _schemas() -> Schema:
    """The schemas of bodies and answers by class name. The classes of the protocol are as in the AsyncAPI document."""
    classes: dict[type, None] = {ErrorAnswer: None}
    for endpoint in ENDPOINTS.values():
        for body in (endpoint.body, *endpoint.answers.values()):
            classes |= dict.fromkeys(_classes(body))
    _, own = msgspec.json.schema_components(classes, ref_template=_REF)
    requests = {cls.__name__ for endpoint in ENDPOINTS.values() for cls in _classes(endpoint.body)}
    for name, schema in own.items():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
        if name not in requests and "properties" in schema:
            for field in schema["properties"].values():
                field.pop("default", None)
    protocol = component_schemas()
    return {name: _portable(protocol.get(name, schema)) for name, schema in sorted(own.items())}


def _portable(schema: Any) -> Any:  # Any: JSON of every shape
    """Write regular expressions as in ECMAScript, which JSON Schema has and which has no `\\Z`."""
    if isinstance(schema, dict):
        return {
            key: value.replace(r"\Z", "$") if key == "pattern" and isinstance(value, str) else _portable(value)
            for key, value in schema.items()
        }
    return [_portable(each) for each in schema] if isinstance(schema, list | tuple) else schema

"""The pages under `/docs` show everything in both documents, and load and run nothing."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from typing import Any

import pytest
from bs4 import BeautifulSoup

from actorchat.http.documentation_html import code, fields_table, page, prose, type_of
from actorchat.http.openapi import openapi_document
from actorchat.protocol import asyncapi_document
from tests.server.server_under_test import run_server

PAGES = ("/docs", "/docs/websockets")


async def read(path: str) -> tuple[Any, str]:  # Any: for the library, each tag may be missing
    """The page and its policy."""
    async with run_server() as api:
        answer = await api.http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return BeautifulSoup(answer.text, "html.parser"), answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_loads_and_runs_nothing(path: str) -> None:
    shown, policy = await read(path)
    assert {tag.name for tag in shown.find_all(True)}.isdisjoint({"script", "link", "img", "iframe", "form", "object"})
    assert "url(" not in shown.style.string
    assert "@import" not in shown.style.string
    assert not [name for tag in shown.find_all(True) for name in tag.attrs if name == "style" or name.startswith("on")]
    assert policy.startswith("default-src 'none';")
    digest = b64encode(hashlib.sha256(shown.style.string.encode()).digest()).decode()
    assert policy.endswith(f"style-src 'sha256-{digest}'")


@pytest.mark.parametrize("path", PAGES)
async def test_every_link_leads_somewhere(path: str) -> None:
    shown, _ = await read(path)
    ids = {tag["id"] for tag in shown.find_all(id=True)}
    inside = [link["href"][1:] for link in shown.find_all("a") if link["href"][0] == "#"]
    assert inside
    assert set(inside) <= ids
    async with run_server() as api:
        for link in shown.find_all("a"):
            if link["href"][0] != "#":
                assert not link["href"].startswith("/"), "only relative links work below the path of a proxy"
                assert (await api.http.get(str(api.http.base_url.join(path).join(link["href"])))).status_code == 200


async def test_the_page_of_the_api_shows_every_operation_and_schema() -> None:
    shown, _ = await read("/docs")
    document = json.loads(json.dumps(openapi_document()))
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            text = shown.find(id=operation["operationId"]).get_text(" ")
            assert method.upper() in text
            assert path in text
            for status, response in operation["responses"].items():
                assert re.search(rf"\b{status}\b", text), response
            for parameter in operation.get("parameters", ()):
                assert parameter["name"] in text
    for name, schema in document["components"]["schemas"].items():
        assert shown.find(id=f"schema-{name}") is not None
        for field in schema.get("properties", {}):
            assert field in shown.get_text()


async def test_the_page_of_websockets_shows_every_message_and_example() -> None:
    shown, _ = await read("/docs/websockets")
    document = json.loads(json.dumps(asyncapi_document()))
    text = shown.get_text()
    examples = [json.loads(block.string) for block in shown.find_all("pre")]
    for message in document["components"]["messages"].values():
        assert message["summary"] in text
        assert all(each["payload"] in examples for each in message["examples"])
    for channel in document["channels"].values():
        assert channel["address"] in text


def test_text_of_a_document_is_escaped() -> None:
    hostile = "<script>alert(1)</script>\"'&"
    schema = {
        "properties": {hostile: {"type": hostile, "description": f"{hostile} `{hostile}`", "enum": [hostile]}},
        "required": [],
    }
    made = [
        fields_table(schema),
        prose(hostile),
        code(hostile),
        type_of({"$ref": f"#/components/schemas/{hostile}"}),
        type_of({"type": hostile, "format": hostile}),
        page(hostile, "", [(hostile, hostile, True)], []).decode(),
    ]
    for each in made:
        assert "<script" not in each
        assert not BeautifulSoup(each, "html.parser").find_all("script")

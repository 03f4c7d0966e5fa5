"""The OpenAPI document is valid, describes each route, and the server answers as it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import BaseRoute, Route

from actorchat.chat.accounts import Rights
from actorchat.cli import main
from actorchat.http.endpoint_descriptions import Access
from actorchat.http.endpoints import ENDPOINTS
from actorchat.http.openapi import openapi_document
from actorchat.http.problems import STATUSES
from actorchat.http.request_counts import RequestCounts
from actorchat.protocol import Role, User
from tests.http.fuzz.__main__ import fuzz
from tests.server.server_under_test import ApiClient, operator, run_server
from tests.system.server_process import server_process

# Any: the document is JSON of every shape.
Document = Mapping[str, Any]

DOCUMENTED = ("/api/", "/health/", "/metrics", "/asyncapi.json", "/openapi.json", "/docs")
"""What the paths of documented routes begin with. Others are pages and their files."""


@pytest.fixture(scope="module")
def document() -> Document:
    written: Document = json.loads(json.dumps(openapi_document()))
    return written


def test_the_document_is_valid(document: Document) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


async def test_every_route_is_documented_and_every_documented_one_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    routes: set[tuple[str, str]] = set()

    def know(counts: RequestCounts, known: Iterable[BaseRoute]) -> None:
        for route in known:
            if isinstance(route, Route) and route.path.startswith(DOCUMENTED):
                routes.update((method, route.path) for method in (route.methods or {"GET"}) - {"HEAD"})

    monkeypatch.setattr(RequestCounts, "know", know)
    async with run_server():
        pass
    assert routes == set(ENDPOINTS)


async def test_the_query_parameters_are_those_that_the_server_accepts() -> None:
    async with run_server() as api:
        visitor, chat = await api.talk()
        ids = {
            "{chat:uuid}": str(chat),
            "{file:uuid}": str(chat),
            "{message:int}": "1",
            "{reply:uuid}": str(chat),
            "{person:int}": "1",
            "{source}": "lk",
            "{block:int}": "1",
            "{account:int}": "1",
        }
        for (method, path), endpoint in ENDPOINTS.items():
            if not path.startswith("/api/"):
                continue
            token = visitor if endpoint.access is Access.OPTIONAL else operator()
            for pattern, value in ids.items():
                path = path.replace(pattern, value)
            answer = await api.call(method, f"{path}?no_such_parameter=1", token, json={"source": "lk"})
            assert answer.status_code == 400, (method, path)
            stated = re.search(r"expected one of (.*)$", answer.json()["error"]["detail"])
            known = set() if stated is None else set(stated[1].split(", "))
            assert known == {parameter.name for parameter in endpoint.parameters}, (method, path)


async def test_an_idempotency_key_is_documented_where_the_server_honours_it(document: Document) -> None:
    honoured, documented = set(), set()
    async with run_server() as api:
        _, chat = await api.talk()
        chief = api.server.issue_token(User(5, Role.OPERATOR), sources=("lk",), rights=Rights.SUPERVISOR)
        for method, path in ENDPOINTS:
            plain = re.sub(r"{(\w+)(:\w+)?}", r"{\1}", path)
            parameters = document["paths"][plain][method.lower()].get("parameters", ())
            if any(each["in"] == "header" and each["name"] == "Idempotency-Key" for each in parameters):
                documented.add((method, path))
            filled = re.sub(r"{\w+:int}", "1", re.sub(r"{\w+:uuid}", str(chat), path)).replace("{source}", "lk")
            token = chief if path == "/api/blocks" else operator()
            answer = await api.call(method, filled, token, json={}, headers={"Idempotency-Key": "a b"})
            if answer.status_code == 400 and answer.json()["error"]["path"] == "Idempotency-Key":
                honoured.add((method, path))
    assert documented == honoured
    assert len(honoured) == 9


def test_every_code_of_an_error_is_documented(document: Document) -> None:
    described = set()
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                for part in (
                    response.get("content", {}).get("application/json", {}).get("schema", {}).get("allOf", [])[1:]
                ):
                    codes = part["properties"]["error"]["properties"]["code"]["enum"]
                    assert {STATUSES[code] for code in codes} <= {int(status), 422}
                    described |= set(codes)
    # The paths of these two are no endpoints.
    assert set(STATUSES) - described == {"method_not_allowed", "upgrade_required"}


async def test_answers_match_their_schemas(document: Document) -> None:
    async with run_server() as api:
        visitor, chat = await api.talk()
        for path, token in (
            ("/api/chats", operator()),
            (f"/api/chats/{chat}", visitor),
            (f"/api/chats/{chat}/messages", visitor),
            ("/api/operators", operator()),
            ("/health/live", None),
            ("/health/ready", None),
        ):
            answer = await api.call("GET", path, token)
            plain = path.replace(str(chat), "{chat}")
            schema = document["paths"][plain]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())


async def test_the_server_serves_the_document_that_the_command_prints() -> None:
    printed = json.loads(CliRunner().invoke(main, ["openapi"]).output)
    async with run_server() as api:
        assert (await served(api)) == printed


async def served(api: ApiClient) -> object:
    answer = await api.http.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.slow
def test_a_real_server_answers_fuzzed_requests_as_documented(tmp_path: Path) -> None:
    """A short form of `just fuzz`."""
    with server_process(tmp_path / "data") as server:
        assert fuzz(server, tmp_path, examples=1) > 500


async def test_a_wrong_method_is_answered_with_all_methods_of_the_path() -> None:
    async with run_server() as api:
        answer = await api.call("OPTIONS", "/api/replies", operator())
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"

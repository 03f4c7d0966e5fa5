"""The conformance command finds nothing wrong with this server, and names the broken rule of deviating ones."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from click.testing import CliRunner

from actorchat.cli import main
from actorchat.protocol import Role
from actorchat.server.settings import LimitSettings, Settings
from actorchat.testing.conformance import RULES, Outcome, Result, judge, open_deployment
from tests.server.server_under_test import SECRET, operator, run_server
from tests.system.mutating_proxy import Answer, Deviation, Json, Request, mutated
from tests.system.server_process import server_process, token

pytestmark = pytest.mark.slow

FREE: Final = LimitSettings(messages_per_second=0, visitors_per_minute=0)


async def results(url: str, *only: str) -> list[Result]:
    tokens = [operator(7), operator(8)]
    async with open_deployment(url, "lk", tokens) as deployment:
        return [result async for result in judge(deployment, only)]


def broken(found: list[Result]) -> list[str]:
    return [f"{result.rule.name}: {result.detail}" for result in found if result.outcome is not Outcome.KEPT]


@pytest.mark.parametrize("base_path", ["", "/chat"])
@pytest.mark.parametrize("storage", ["memory", "sqlite"])
@pytest.mark.parametrize("transport", ["reactor", "trio-websocket"])
def test_this_server_keeps_every_rule(storage: str, transport: str, base_path: str, tmp_path: Path) -> None:
    settings = Settings(
        storage="memory://" if storage == "memory" else None,
        data=tmp_path / "data",
        port=0,
        secret=SECRET,
        limits=FREE,
        transport=transport,
        base_path=base_path,
    )

    async def run() -> list[Result]:
        from actorchat.server.serving import open_server

        async with open_server(settings) as server:
            return await results(server.url + base_path)

    found = trio.run(run)
    assert broken(found) == []
    assert len(found) == len(RULES) >= 35


def test_the_command_exits_with_0_on_a_server_process(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        tokens = [argument for id_ in (7, 8) for argument in ("--token", token(Role.OPERATOR, id_))]
        ended = CliRunner().invoke(main, ["conformance", server.url, *tokens])
    assert ended.exit_code == 0, ended.output
    assert ended.output.endswith(f"{len(RULES)} rules kept, 0 broken\n")


def test_without_tokens_rules_about_operators_are_skipped(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        ended = CliRunner().invoke(main, ["conformance", server.url, "--json"])
    assert ended.exit_code == 0, ended.output
    outcomes = {row["rule"]: row["outcome"] for row in map(json.loads, ended.output.splitlines())}
    assert outcomes == {rule.name: "skipped" if rule.operators else "kept" for rule in RULES}


def test_the_command_exits_with_1_and_names_the_rule_if_it_is_another_server() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{other.server_port}"
        ended = CliRunner().invoke(main, ["conformance", url, "--rule", "empty-messages-are-refused"])
        other.shutdown()
        thread.join()
    assert ended.exit_code == 1
    assert "FAIL empty-messages-are-refused: A message without text" in ended.output
    assert "0 rules kept, 1 broken" in ended.output


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_command_exits_with_2_and_one_line_if_the_server_can_not_be_reached(options: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(main, ["conformance", "http://127.0.0.1:1", *options])
    assert ended.exit_code == 2
    assert ended.output.startswith("actorchat: can't connect to 127.0.0.1:1")
    assert ended.output.count("\n") == 1


def test_a_folder_without_a_secret_is_named(tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, ["conformance", "http://127.0.0.1:1", "--data", str(tmp_path)])
    assert (ended.exit_code, ended.output.count("\n")) == (1, 1)
    assert f"{tmp_path} has no secret" in ended.output


def test_the_secret_in_the_environment_signs_the_tokens_of_the_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTORCHAT_SECRET", SECRET)
    with server_process(tmp_path / "data") as server:
        rule = next(rule.name for rule in RULES if rule.operators)
        ended = CliRunner().invoke(
            main, ["conformance", server.url, "--data", str(tmp_path / "data"), "--rule", rule, "--json"]
        )
    assert json.loads(ended.output)["outcome"] == "kept"


@pytest.mark.parametrize("wrong", [("ftp://x",), ("http://x", "--rule", "no-such-rule"), ("http://x", "--source", "É")])
def test_a_wrong_argument_exits_with_2(wrong: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["conformance", *wrong]).exit_code == 2


# Deviations. `path` is that of the request or socket.


def in_messages(path: str) -> bool:
    return path.partition("?")[0].endswith("/messages")


def changed_answer(method: str, end: str, **fields: Any) -> Deviation:  # Any: JSON
    """Answers of that kind have these fields."""

    def answer(request: Request, answer: Answer) -> None:
        if request.method == method and request.path.partition("?")[0].endswith(end) and isinstance(answer.json, dict):
            answer.json |= {name: value for name, value in fields.items() if name in answer.json}

    return Deviation(answer=answer)


def other_status(old: int, new: int) -> Deviation:
    def answer(request: Request, answer: Answer) -> None:
        answer.status = new if answer.status == old else answer.status

    return Deviation(answer=answer)


def dropped(type_: str, where: str = "/ws/") -> Deviation:
    """Sockets of that path get no events of that type."""
    return Deviation(events=lambda path, event: [] if event["type"] == type_ and where in path else [event])


def changed_event(type_: str, where: str = "/ws/", **fields: Any) -> Deviation:  # Any: JSON
    def events(path: str, event: Json) -> list[Json]:
        if event["type"] == type_ and where in path:
            event["data"] |= fields
        return [event]

    return Deviation(events=events)


def without_field(type_: str, field: str) -> Deviation:
    def events(path: str, event: Json) -> list[Json]:
        if event["type"] == type_:
            event["data"].pop(field, None)
        return [event]

    return Deviation(events=events)


def reversed_fields(request: Request, answer: Answer) -> None:
    if request.path == "/api/visitors":
        answer.json["chat"] = dict(reversed(answer.json["chat"].items()))


def time_in_zulu(request: Request, answer: Answer) -> None:
    if isinstance(answer.json, dict) and "send_time" in answer.json:
        answer.json["send_time"] = answer.json["send_time"][:19] + "Z"


def uncached(request: Request, answer: Answer) -> None:
    answer.headers.pop("cache-control", None)


def descending(request: Request, answer: Answer) -> None:
    if request.method == "GET" and in_messages(request.path):
        answer.json["messages"].reverse()


def without_keys(request: Request) -> None:
    if request.method == "POST" and in_messages(request.path) and b"client_id" in request.body:
        body = json.loads(request.body)
        del body["client_id"]
        request.body = json.dumps(body).encode()


def without_unknown_parameters(request: Request) -> None:
    request.path = request.path.partition("?beforehand=")[0]


def error_without_path(request: Request, answer: Answer) -> None:
    if isinstance(answer.json, dict) and "error" in answer.json:
        del answer.json["error"]["path"]


def as_the_first_operator(request: Request) -> None:
    if request.headers.get("authorization", "").startswith("Bearer ") and request.path.endswith("/accept"):
        request.headers["authorization"] = f"Bearer {operator(7)}"


def as_a_new_visitor(request: Request) -> None:
    if request.path == "/api/visitors":
        request.headers.pop("authorization", None)


def history_for_operators(request: Request) -> None:
    if request.method == "GET" and in_messages(request.path):
        request.headers["authorization"] = f"Bearer {operator(7)}"


def indexes_from_1(request: Request, answer: Answer) -> None:
    if request.method == "POST" and in_messages(request.path) and "message_index" in answer.json:
        answer.json["message_index"] += 1


def empty_accepted(request: Request, answer: Answer) -> None:
    if isinstance(answer.json, dict) and answer.json.get("error", {}).get("code") == "empty":
        answer.status, answer.json = 201, {}


def twice(path: str, event: Json) -> list[Json]:
    return [event, event] if event["type"] == "message_added" and "/ws/chats" in path else [event]


def twice_in_a_replay(path: str, event: Json) -> list[Json]:
    return [event, event] if event["type"] == "message_added" and "after=2" in path else [event]


def chat_events_in_strict_rooms(path: str, event: Json) -> list[Json]:
    if event["type"] == "message_added" and "/ws/chats" in path:
        return [event, {"type": "chat_updated", "data": {"chat": event["data"]["message"]["chat"]}}]
    return [event]


def read_too_early(path: str, event: Json) -> list[Json]:
    if event["type"] == "message_updated":
        event["data"]["message"]["status"] = "delivered"
    return [event]


def notes_for_everybody(path: str, event: Json) -> list[Json]:
    if event["type"] == "message_added" and event["data"]["message"]["text"] == "bye":
        note = json.loads(json.dumps(event))
        note["data"]["message"]["text"] = "a note"
        return [note, event]
    return [event]


DEVIATIONS: Final = {
    "fields in another order": (Deviation(answer=reversed_fields), "entities-have-the-contracts-fields"),
    "times with Z": (Deviation(answer=time_in_zulu), "entities-have-the-contracts-fields"),
    "a visit answered with 200": (other_status(201, 200), "a-visit-is-continued-with-its-token"),
    "another chat for a known visitor": (
        Deviation(request=as_a_new_visitor),
        "a-visit-is-continued-with-its-token",
    ),
    "400 for 404": (other_status(404, 400), "errors-have-code-detail-and-path"),
    "errors without path": (Deviation(answer=error_without_path), "errors-have-code-detail-and-path"),
    "misspelt parameters ignored": (
        Deviation(request=without_unknown_parameters),
        "unknown-query-parameters-are-refused",
    ),
    "private answers cached": (Deviation(answer=uncached), "private-answers-are-not-cached"),
    "history in descending order": (
        Deviation(answer=descending),
        "history-is-ascending-and-its-bounds-are-exclusive",
    ),
    "has_more always": (
        changed_answer("GET", "/messages", has_more=True),
        "history-is-ascending-and-its-bounds-are-exclusive",
    ),
    "indexes from 1": (Deviation(answer=indexes_from_1), "message-indexes-begin-at-0-without-gaps"),
    "client_id ignored": (Deviation(request=without_keys), "a-repeated-client-id-stores-nothing"),
    "empty messages accepted": (Deviation(answer=empty_accepted), "empty-messages-are-refused"),
    "404 for chats of others": (other_status(403, 404), "chats-of-others-are-closed-to-visitors"),
    "notes in the visitor's history": (Deviation(request=history_for_operators), "notes-are-hidden-from-visitors"),
    "two operators accept": (Deviation(request=as_the_first_operator), "of-two-operators-one-gets-the-chat"),
    "an accepted chat stays new": (
        changed_answer("POST", "/accept", status="new"),
        "accepting-a-chat-makes-it-the-operators",
    ),
    "1011 for malformed frames": (
        Deviation(code=lambda code: 1011 if code == 1008 else code),
        "three-malformed-frames-close-the-socket",
    ),
    "1000 for large frames": (
        Deviation(code=lambda code: 1000 if code == 1009 else code),
        "large-and-undecodable-frames-close-the-socket",
    ),
    "1000 for bad tokens": (
        Deviation(code=lambda code: 1000 if code == 4401 else code),
        "browsers-get-closing-codes",
    ),
    "no error on extended sockets": (dropped("error"), "unknown-events-are-ignored-or-answered"),
    "message_not_added without retry_after": (
        without_field("message_not_added", "retry_after"),
        "a-malformed-message-is-answered-in-both-profiles",
    ),
    "nobody is present": (dropped("user_connected"), "the-present-are-shown-first"),
    "messages twice": (Deviation(events=twice), "every-socket-gets-each-message-once-in-order"),
    "further fields for strict clients": (
        changed_event("message_added", extra=1),
        "strict-sockets-get-only-the-contracts-fields",
    ),
    "further events for strict clients": (
        Deviation(events=chat_events_in_strict_rooms),
        "strict-sockets-get-only-the-contracts-fields",
    ),
    "no client_id": (without_field("message_added", "client_id"), "the-sender-recognizes-its-message-by-client-id"),
    "repeats in a replay": (Deviation(events=twice_in_a_replay), "a-socket-resumes-without-gaps-and-repeats"),
    "no resync": (dropped("resync_required"), "a-position-of-another-history-is-resynchronized"),
    "read shown as delivered": (
        Deviation(events=read_too_early),
        "a-mark-covers-earlier-messages-and-never-goes-back",
    ),
    "receipts of the wrong role": (changed_event("receipts", role="user"), "receipts-arrive-as-one-event"),
    "typed text shown in the room": (
        changed_event("typing_updated", "/ws/chats", text="a draft"),
        "typing-is-shown-without-its-text-in-the-room",
    ),
    "no counters in the snapshot": (dropped("global_updated"), "the-feed-begins-with-a-snapshot"),
    "a message before its chat": (
        dropped("chat_updated", "/ws/operators"),
        "a-new-chat-is-announced-before-its-message",
    ),
    "unread chats not counted": (changed_event("global_updated", unread_chats=0), "the-feed-counts-unread-chats"),
    "open chats not counted": (
        changed_event("operator_updated", open_chats=0),
        "the-feed-counts-the-chats-of-operators",
    ),
    "notes shown to visitors": (Deviation(events=notes_for_everybody), "the-feed-has-no-system-messages"),
    "typing without text on the feed": (
        changed_event("typing_updated", "/ws/operators", text=""),
        "the-feed-shows-what-is-typed",
    ),
    "closing without a notice": (dropped("message_added", "/ws/chats"), "a-closed-chat-is-announced"),
}


@pytest.mark.parametrize("name", DEVIATIONS)
async def test_a_deviation_breaks_the_rule_that_it_is_about(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deviation, rule = DEVIATIONS[name]
    monkeypatch.setattr("actorchat.testing.conformance.deployment.ANSWER_SECONDS", 4.0)
    settings = Settings(storage="memory://", port=0, secret=SECRET, limits=FREE)
    async with run_server(settings) as api, mutated(api.server.url, deviation) as url:
        [found] = await results(url, rule)
    assert found.outcome is Outcome.BROKEN
    assert found.rule.name == rule


async def test_the_proxy_itself_changes_nothing() -> None:
    settings = Settings(storage="memory://", port=0, secret=SECRET, limits=FREE)
    async with run_server(settings) as api, mutated(api.server.url, Deviation()) as url:
        names = {rule for _, rule in DEVIATIONS.values()}
        assert broken(await results(url, *names)) == []

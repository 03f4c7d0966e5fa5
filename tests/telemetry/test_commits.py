"""Each commit has a span, which is linked to the requests whose operations it has stored."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from actorchat.chat.model import Policy
from actorchat.storage.journal import open_journal
from actorchat.storage.memory import MemoryStore
from actorchat.storage.worker_threads import InPlace
from actorchat.telemetry.commits import CommitSpans
from actorchat.testing import CommitFault, DelayedRunner, FaultyStore
from tests.server.server_under_test import operator, run_server
from tests.storage.sample_chat import RESERVE, OutcomeRecorder, say
from tests.telemetry.spans import Spans, attributes_of, context_of, linked


def _commits_of(spans: Spans, request: ReadableSpan) -> list[ReadableSpan]:
    """The spans of the commits that `request` has links to."""
    return [span for span in spans if span.name == "journal commit" and context_of(span).span_id in linked(request)]


async def test_a_commit_and_the_request_of_its_operation_are_linked() -> None:
    spans = Spans()
    async with run_server(tracer_provider=spans.provider) as api:
        visitor, chat = await api.visit()
        await api.write(visitor, chat)
        await api.call("POST", f"/api/chats/{chat}/accept", operator())
        await api.call("GET", f"/api/chats/{chat}/messages", visitor)
    routes = ("POST /api/visitors", "POST /api/chats/{chat:uuid}/messages", "POST /api/chats/{chat:uuid}/accept")
    for route in routes:
        request = spans.named(route)
        commits = _commits_of(spans, request)
        assert commits
        for commit in commits:
            assert linked(commit) == {context_of(request).span_id}
            # Linked, not a child: one commit stores the operations of many requests.
            assert (commit.parent, context_of(commit).trace_id == context_of(request).trace_id) == (None, False)
    assert linked(spans.named("GET /api/chats/{chat:uuid}/messages")) == set()


async def test_the_commits_of_sockets_have_no_links() -> None:
    spans = Spans()
    async with run_server(tracer_provider=spans.provider) as api:
        visitor, chat = await api.visit()
        async with api.socket(f"/ws/chats/{chat}", visitor) as socket:
            before = len(spans.names)
            await socket.send_message('{"type":"send_message","data":{"text":"hi","attachments":[]}}')
            while '"message_added"' not in await socket.get_message():
                pass
            commits = [span for span in list(spans)[before:] if span.name == "journal commit"]
    assert commits
    assert [span.links for span in commits] == [()] * len(commits)


async def test_a_span_has_the_operations_of_its_batch_and_lasts_as_long_as_the_commit() -> None:
    spans = Spans()
    observe = CommitSpans(spans.provider.get_tracer("test")).committed
    runner = DelayedRunner(InPlace(), lambda: 0.05)
    async with open_journal(MemoryStore(Policy()), runner, observe=observe) as journal:
        for operation in (RESERVE, say("one"), say("two")):
            assert journal.submit(operation, OutcomeRecorder())
        await journal.barrier()
    (commit,) = spans
    assert attributes_of(commit)["actorchat.operations"] == 3
    assert commit.start_time is not None
    assert commit.end_time is not None
    assert commit.end_time - commit.start_time >= 50_000_000


@pytest.mark.parametrize(
    ("fault", "failure"),
    [(CommitFault.AWAY, "unavailable"), (CommitFault.STORED, "in doubt"), (CommitFault.FORGOTTEN, "in doubt")],
)
async def test_a_failed_commit_has_a_span_that_says_how(fault: CommitFault, failure: str) -> None:
    spans = Spans()
    observe = CommitSpans(spans.provider.get_tracer("test")).committed
    store = FaultyStore(MemoryStore(Policy()), [None, fault])
    async with open_journal(store, InPlace(), observe=observe) as journal:
        assert journal.submit(RESERVE, OutcomeRecorder())
        await journal.barrier()
        assert journal.submit(say("one"), OutcomeRecorder())
        await journal.barrier()
    stored, failed = spans
    assert stored.status.status_code is trace.StatusCode.UNSET
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert attributes_of(failed) == {"actorchat.operations": 1, "error.type": failure}

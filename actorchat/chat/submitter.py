"""Submits operations that belong to no room, and waits for their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from actorchat.chat.limits import InFlightLimiter
from actorchat.chat.operations import Operation, Outcome, Refused
from actorchat.chat.ports import Journal
from actorchat.protocol import RefusalCode

__all__ = ["ChatRefused", "Submitter", "refusal_error"]


class ChatRefused(Exception):  # noqa: N818 - an answer, not a failure
    """An operation was refused, and nothing of it is stored. `code` is API.

    With `storage_unavailable` it may be unknown whether a message is stored. Then `detail` says so.
    """

    def __init__(self, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


def refusal_error(refused: Refused) -> ChatRefused:
    """Return the error for a decision."""
    return ChatRefused(refused.code, refused.detail, refused.retry_after)


class _Reply:
    """The `ports.Recipient` of one operation."""

    def __init__(self, tell: Callable[[Outcome], object] | None, on_decided: Callable[[], object] | None) -> None:
        self._tell = tell
        self._on_decided = on_decided
        self._outcome: Outcome | None = None
        self._arrived = trio.Event()

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        (self._outcome,) = outcomes
        self._arrived.set()
        if self._tell is not None:
            self._tell(self._outcome)
        if self._on_decided is not None:
            self._on_decided()

    async def wait(self) -> Outcome:
        await self._arrived.wait()
        assert self._outcome is not None  # noqa: S101 - set together with the event
        return self._outcome


class _Unanswered:
    """The `ports.Recipient` of operations whose outcome nobody waits for, except draining."""

    def __init__(self, in_flight_limiter: InFlightLimiter) -> None:
        self._in_flight_limiter = in_flight_limiter

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        for _ in outcomes:
            self._in_flight_limiter.done()


class Submitter:
    """Gives operations to the journal, no more at a time than `in_flight_limiter` allows."""

    def __init__(self, journal: Journal, in_flight_limiter: InFlightLimiter) -> None:
        self.on_operation: Callable[[], Callable[[], object] | None] = lambda: None
        """Called with each operation. What it returns is called when the outcomes of the commit are reported."""
        self._journal = journal
        self._in_flight_limiter = in_flight_limiter
        self._unanswered = _Unanswered(in_flight_limiter)

    async def submit(self, operation: Operation, tell: Callable[[Outcome], object] | None = None) -> Outcome:
        """Submit `operation` and wait for its outcome. `tell` gets it in commit order, even if this is cancelled.

        Raises `ChatRefused`.
        """
        refused = self._in_flight_limiter.take()
        if refused is not None:
            raise refusal_error(refused)
        try:
            reply = _Reply(tell, self.on_operation())
            if not self._journal.submit(operation, reply):
                raise refusal_error(_overloaded())
            outcome = await reply.wait()
        finally:
            self._in_flight_limiter.done()
        if isinstance(outcome.decision, Refused):
            raise refusal_error(outcome.decision)
        return outcome

    def submit_unanswered(self, operation: Operation) -> Refused | None:
        """Submit `operation` without waiting for its outcome, or return why not."""
        refused = self._in_flight_limiter.take()
        if refused is None and not self._journal.submit(operation, self._unanswered):
            self._in_flight_limiter.done()
            refused = _overloaded()
        return refused


def _overloaded() -> Refused:
    return Refused(RefusalCode.OVERLOADED, "the server has too much to do", 1.0)

"""Faults to plant in the server and its client, to check that the simulation finds them.

`python -m tests.simulation.planted_faults [NAME …]` says which seed finds each, and how many were tried.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any, Final
from unittest import mock

import attrs
import click
import msgspec
import trio

from actorchat.actors._inbox import Inbox
from actorchat.chat import broadcast, replay, room, rules
from actorchat.chat.broadcast import Broadcast
from actorchat.chat.model import ChatState
from actorchat.chat.operator_directory import Directory
from actorchat.chat.operator_feed import Console, Feed, Flush
from actorchat.chat.renamed_users import RenamedUsers
from actorchat.chat.retention_sweeper import RetentionSweeper
from actorchat.chat.room_state import RoomState
from actorchat.chat.typing_throttle import TypingThrottle
from actorchat.client.event_dedup import EventDeduplicator
from actorchat.client.outbox import Outbox as ClientOutbox
from actorchat.client.pending_receipts import PendingReceipts
from actorchat.server import user_cache
from actorchat.server.access_control import AccessControl
from actorchat.server.accounts import Accounts
from actorchat.server.attachments import Attachments
from actorchat.server.blocks import Blocks
from actorchat.server.passwords import Passwords
from actorchat.server.privacy import Privacy
from actorchat.storage import sql_writer
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.decider import _Decider, decide_batch
from actorchat.storage.journal import Journal
from actorchat.storage.store import Batch
from actorchat.testing.simulation.campaign import SeedResult, run_seed, run_seeds
from actorchat.transports import heartbeat
from actorchat.transports.outbox import Outbox
from actorchat.transports.session import Sessions, SocketSession

__all__ = ["PLANTED", "find", "planted", "run_planted"]

MOST_SEEDS: Final = 500

Function = Callable[..., Any]  # Any: patched functions have any signature
Plant = Callable[[], AbstractContextManager[object]]


def _replace(owner: object, name: str, make: Callable[[Function], Function]) -> Plant:
    """Replace a function by what `make` returns for it."""
    return lambda: mock.patch.object(owner, name, make(getattr(owner, name)))


def _broadcast_first(whole: Function) -> Function:
    """Outcomes are sent before the commit."""

    async def commit(self: Any, entries: Any) -> None:
        inner = self._store.inner
        if not hasattr(inner, "_rows") or len(entries) < 2:
            await whole(self, entries)
            return
        batch = Batch(self._writer, self._batches + 1, self._clock())
        operations = [operation for operation, _, _ in entries]
        decided, _ = decide_batch(operations, inner._rows, inner, inner._policy, batch.now)
        self._report(entries, decided)
        self._reported -= len(entries)
        self._report = lambda *_: None
        try:
            await whole(self, entries)
            self._reported += len(entries)
        finally:
            del self._report

    return commit


def _trust_doubt(whole: Function) -> Function:
    """An uncertain commit counts as stored."""

    async def recover(self: Any, batch: Any, doubt: Any) -> None:
        store = self._store
        with mock.patch.object(self, "_store", _Believer(store)):
            await whole(self, batch, doubt)

    return recover


@attrs.frozen
class _Believer:
    store: Any

    def recover(self, batch: object) -> bool:
        self.store.recover(batch)
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def _lose_signals(whole: Function) -> Function:
    """One control message in two hundred is lost."""
    number = count(1)

    def signal(self: Any, item: Any) -> None:
        if next(number) % 200:
            whole(self, item)

    return signal


def _skip_one(whole: Function) -> Function:
    """A resume skips one message if the chat is longer than the room's tail."""

    async def after(self: Any, chat: Any, role: Any, *, after: int, **rest: Any) -> Any:
        return await whole(self, chat, role, after=after + 1 if after >= 0 else after, **rest)

    return after


def _forget_keys(whole: Function) -> Function:
    """The client_ids are forgotten at a restart."""

    def missing(operations: Any, rows: Any) -> Any:
        needs = whole(operations, rows)
        needs.keys.clear()
        return needs

    return missing


def _lapse_anyway(whole: Function) -> Function:
    """A user who reconnects within the grace period is still reported as disconnected."""

    def lapse(self: Any, identity: Any) -> None:
        presence = self.present.get(identity)
        sockets = presence.sockets if presence else 0
        if sockets != 1:
            whole(self, identity)
            return
        presence.sockets = 0
        whole(self, identity)
        presence.sockets = sockets
        self.present[identity] = presence
        self.profiles.watch(identity, self._renamed)

    return lapse


def _short_write(whole: Function) -> Function:
    """A partial write counts as a whole one."""

    def push(self: Any, frames: Any) -> None:
        before = self._queue
        whole(self, frames)
        queue = self._queue
        if before is None and queue is not None and queue.sent and not self.closed and len(queue.entries) == 1:
            queue.entries.clear()
            queue.bytes = queue.frames = queue.sent = 0

    return push


def _late_floor(whole: Function) -> Function:
    """A console repeats events that its snapshot has shown."""
    return lambda self, shown: whole(self, {})


def _transfer_uncounted(whole: Function) -> Function:
    """A transfer does not reduce the counters of the previous operator."""

    def counted(self: Any, draft: Any, before: Any, after: Any) -> Any:
        if before.operator is not None and after.operator is not None and before.operator.id != after.operator.id:
            before = msgspec.structs.replace(before, operator=None)
            draft.share = None
        return whole(self, draft, before, after)

    return counted


def _new_key_in_doubt(whole: Function) -> Function:
    """The client sends an unanswered message again under another client_id."""

    def lost(self: Any) -> None:
        in_flight = self._in_flight
        whole(self)
        if in_flight and self._waiting:
            self._waiting[0].client_id = self._waiting[0].client_id[:-1] + "x"

    return lost


def _forget_delivery(whole: Function) -> Function:
    """The client does not send an unanswered message again."""

    def lost(self: Any) -> None:
        in_flight = self._in_flight
        whole(self)
        if in_flight and self._waiting:
            self._waiting.popleft()

    return lost


def _one_lost(whole: Function) -> Function:
    """One counter in eight never reaches the consoles."""
    number = count(1)

    def take(self: Any, counter: Any) -> None:
        if next(number) % 8:
            whole(self, counter)

    return take


def _counters_first(whole: Function) -> Function:
    """Counters are sent before the events of their chat."""

    def flush(self: Any) -> None:
        feed_state = self._feed_state
        early = tuple(counter for item in feed_state.items for counter in item.counters)
        if not early:
            whole(self)
            return
        feed_state.items = deque(msgspec.structs.replace(item, counters=()) for item in feed_state.items)
        self._count(early)
        self.after(0.2, Flush(), key="late")

    return flush


def _heard_always(whole: Function) -> Function:
    """A silent peer is never closed."""

    async def sweep(sessions: Any, *rest: Any) -> None:
        for session in sessions:
            session.heard = True
        await whole(sessions, *rest)

    return sweep


def _tokens_for_ever(whole: Function) -> Function:
    """A socket stays open after its token has expired."""

    async def sweep(*rest: Any) -> None:
        # The last argument is the time of the wall clock.
        await whole(*rest[:-1], 0.0)

    return sweep


def _drain_in_silence(whole: Function) -> Function:
    """A draining server closes sockets without a Close frame."""

    async def drain(self: Any, code: int, reason: str = "") -> None:
        for session in self:
            session.lost()
        await whole(self, code, reason)

    return drain


def _patience(whole: Function) -> Function:
    """Malformed frames never close a socket."""

    def note(self: Any, receiver: Any, fault: Any) -> None:
        self._malformed = 0
        whole(self, receiver, fault)

    return note


def _extended_for_all(whole: Function) -> Function:
    """Strict sockets get events of the extended profile."""

    def init(self: Any, audience: Any, buffer: Any) -> None:
        whole(self, audience, buffer)
        self.extended = True

    return init


def _close_unanswered(whole: Function) -> Function:
    """The idle timer runs while the customer waits for an answer."""

    def due_at(self: Any, policy: Any) -> float | None:
        if self.active and policy.idle_timeout:
            return float(self.last_activity + policy.idle_timeout)
        return None if not self.active else whole(self, policy)

    return due_at


def _sweep_unanswered(whole: Function) -> Function:
    """The sweeper closes every chat that is due."""

    def sweep(chat: Any, context: Any) -> Any:
        if context.policy.idle_timeout:
            chat = msgspec.structs.replace(chat, awaiting_since=None)
        return whole(chat, context)

    return sweep


def _skip_told(whole: Function) -> Function:
    """After a reconnect the client skips one message."""

    def lost(self: Any) -> Any:
        if self.last_index is not None:
            self.last_index += 1
        return whole(self)

    return lost


def _marks_go_back(whole: Function) -> Function:
    """A mark of an older message lowers the watermark."""

    def mark(chat: Any, operation: Any, context: Any) -> Any:
        lowered = dict.fromkeys(("visitor_delivered", "visitor_read", "operators_delivered", "operators_read"), -1)
        side = "visitor" if operation.reader.role.value == "user" else "operators"
        return whole(
            msgspec.structs.replace(chat, **{name: low for name, low in lowered.items() if name.startswith(side)}),
            operation,
            context,
        )

    return mark


def _nothing(whole: Function) -> Function:
    """A function that does nothing."""
    return lambda *_, **__: None


def _always(value: object) -> Callable[[Function], Function]:
    """A function that always returns `value`."""
    return lambda whole: lambda *_, **__: value


def _both(*plants: Plant) -> Plant:
    @contextmanager
    def all_of_them() -> Iterator[None]:
        with plants[0](), plants[1]():
            yield

    return all_of_them


def _taken_by_anybody(whole: Function) -> Function:
    """Two operators can accept the same chat."""
    return lambda chat, operator, context: operator


def _operations_leak(whole: Function) -> Function:
    """One answer in five does not free its place in the in-flight limiter."""
    number = count(1)

    def done(self: Any, *rest: Any) -> None:
        if next(number) % 5:
            whole(self, *rest)

    return done


def _bound_again(whole: Function) -> Function:
    """An upload can be bound to several messages."""

    def take(chat: Any, operation: Any, context: Any) -> Any:
        free = [upload and msgspec.structs.replace(upload, bound=False) for upload in context.uploads]
        return whole(chat, operation, msgspec.structs.replace(context, uploads=tuple(free)))

    return take


def _erase_some(whole: Function) -> Function:
    """An erasure leaves one message in four."""

    async def erase(self: Any, messages: Any, *rest: Any) -> int:
        async def most() -> Any:
            number = count(1)
            async for message in messages:
                if next(number) % 4:
                    yield message

        return int(await whole(self, most(), *rest))

    return erase


def _too_early(whole: Function) -> Function:
    """Chats are deleted as soon as they are closed."""

    async def select(self: Any, now: float) -> Any:
        return [(chat, now) for chat, _ in await whole(self, now + 1_000_000)]

    return select


def _expire_at_once(whole: Function) -> Function:
    """Unused uploads expire at once."""

    async def expire(self: Any) -> None:
        with mock.patch.object(self, "_clock", return_value=self._clock() + 1_000_000):
            await whole(self)

    return expire


def _always_true(whole: Function) -> Function:
    """An async function that returns True."""

    async def true(*_: Any) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    return true


PLANTED: Final[Mapping[str, Plant]] = {
    "announce-before-commit": _replace(Journal, "_commit", _broadcast_first),
    "doubt-taken-for-stored": _replace(Journal, "_recover", _trust_doubt),
    "lost-control-message": _replace(Inbox, "signal", _lose_signals),
    "resume-off-by-one": _replace(AsyncReader, "after", _skip_one),
    "keys-forgotten-at-restart": _replace(sql_writer, "missing_rest", _forget_keys),
    "left-within-the-grace": _replace(RoomState, "lapse", _lapse_anyway),
    "short-write-taken-for-whole": _replace(Outbox, "push", _short_write),
    "snapshot-and-live-overlap": _replace(Console, "release", _late_floor),
    "transfer-not-counted": _replace(_Decider, "_count", _transfer_uncounted),
    "notes-in-resume": _replace(replay, "visible_to", _always(True)),
    "note-to-a-visitor": _replace(broadcast, "visible_to", _always(True)),
    "new-key-in-doubt": _replace(ClientOutbox, "socket_lost", _new_key_in_doubt),
    "client-forgets-a-message": _replace(ClientOutbox, "socket_lost", _forget_delivery),
    "client-forgets-marks": _replace(PendingReceipts, "socket_lost", lambda whole: lambda self: self.clear_typing()),
    "client-skips-a-message": _replace(EventDeduplicator, "socket_lost", _skip_told),
    "two-accept-at-once": _replace(rules, "_taken_by", _taken_by_anybody),
    "lost-counter": _replace(Directory, "_count", _one_lost),
    "counters-before-their-chat": _replace(Feed, "_flush", _counters_first),
    "outbox-without-bound": _replace(Outbox, "_fits", _always(True)),
    "silent-peers-kept": _replace(heartbeat, "_sweep", _heard_always),
    "sockets-outlive-tokens": _replace(heartbeat, "_sweep", _tokens_for_ever),
    "drain-without-close": _replace(Sessions, "drain", _drain_in_silence),
    "malformed-for-ever": _replace(SocketSession, "_count_malformed", _patience),
    "extended-events-to-strict": _replace(broadcast._AudienceFrames, "__init__", _extended_for_all),
    "operators-never-offline": _replace(Directory, "_start_grace", _nothing),
    "capacity-passed": _replace(rules, "_full", _always(False)),
    "unanswered-chats-closed": _both(
        _replace(ChatState, "due_at", _close_unanswered), _replace(rules, "_sweep", _sweep_unanswered)
    ),
    "watermarks-go-back": _replace(rules, "_mark", _marks_go_back),
    "typing-never-stops": _replace(TypingThrottle, "stop", _nothing),
    "new-name-shown-to-nobody": _replace(RenamedUsers, "changed", _nothing),
    "expired-though-used": _replace(_Decider, "_used", lambda whole: lambda self, chat: chat),
    "refused-before-the-key": _replace(room, "refusal_of", _always(None)),
    "places-leak": _replace(SocketSession, "operation_done", _operations_leak),
    "edit-shown-to-nobody": _replace(Broadcast, "_encode_edit", _nothing),
    "redacted-text-in-resume": _replace(RoomState, "change_messages", _nothing),
    "bound-twice": _replace(rules, "_take_uploads", _bound_again),
    "uploads-expire-at-once": _replace(Attachments, "expire_unused", _expire_at_once),
    "bytes-of-redacted-files-kept": _replace(Attachments, "remove_soon", _nothing),
    "sockets-outlive-a-sign-out": _replace(Sessions, "sign_out", _nothing),
    "tokens-outlive-a-sign-out": _replace(user_cache, "_check_signed_out", _nothing),
    "disabled-account-works": _replace(Accounts, "check_enabled", _nothing),
    "any-password-signs-in": _replace(Passwords, "verify", _always_true),
    "blocked-visitor-comes-back": _replace(Blocks, "blocks_user", _always(False)),
    "everybody-administrates": _replace(AccessControl, "require", _nothing),
    "erasure-leaves-messages": _replace(Privacy, "_erase_messages", _erase_some),
    "deleted-too-early": _replace(RetentionSweeper, "_select", _too_early),
}
"""The faults by name, each as a context manager that plants it."""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Inside the block, plant the fault."""
    with PLANTED[name]():
        yield


def run_planted(
    seed: int, *, name: str, known: Collection[str] = (), faults: Collection[str] | None = None
) -> SeedResult:
    with planted(name):
        return run_seed(seed, known=known, faults=faults)


@attrs.frozen
class _RunPlanted:
    """Runs seeds with one planted fault; can be sent to other processes."""

    name: str

    def __call__(self, seed: int, *, known: Collection[str], faults: Collection[str] | None) -> SeedResult:
        return run_planted(seed, name=self.name, known=known, faults=faults)


def find(name: str, first: int = 0, most: int = MOST_SEEDS, jobs: int | None = None) -> tuple[SeedResult | None, int]:
    """The first seed from `first` on that finds the fault, and how many seeds were tried."""
    tried = 0
    results = run_seeds(range(first, first + most), jobs=jobs, run=_RunPlanted(name))
    for result in results:
        tried += 1
        if result.kind is not None:
            return result, tried
    return None, tried


def main(names: Sequence[str]) -> int:
    missed = 0
    for name in names or PLANTED:
        found, tried = find(name)
        if found is None:
            missed += 1
            click.echo(f"{name:30} not found in {tried} seeds")
        else:
            click.echo(f"{name:30} seed {found.seed:4} after {tried:3}: {found.kind}: {found.detail[:90]}")
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Checks every event that the server writes to the websocket of a chat."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import attrs
import msgspec

from actorchat.chat.model import StoredMessage
from actorchat.testing.simulation.chat_truth import RANK, ChatTruth, Look, person_of
from actorchat.testing.simulation.model import Json, Person
from actorchat.testing.simulation.network import Connection
from actorchat.testing.simulation.socket_watch import Watch, Watcher, look_of, who_of
from actorchat.testing.simulation.wrong_frames import Fault, fault_of

__all__ = ["RoomWatch"]

_decode: Final = msgspec.json.decode
_RESERVED: Final[Look] = ("new", None)
"""The state of a chat before its first change."""


class RoomWatch(Watch):
    def __init__(
        self,
        watcher: Watcher,
        connection: Connection,
        who: Person,
        chat: str,
        *,
        extended: bool,
        after: int | None,
    ) -> None:
        super().__init__(watcher, connection, who, extended=extended)
        self.chat = chat
        self.last = after
        self.joined_at: int | None = None
        """The number of messages in the chat when the socket joined."""
        self.present: dict[Person, Json] = {}
        self._announced_before = -1
        self._receipts: dict[str, tuple[int, int]] = {}
        self._statuses: dict[int, str] = {}
        # The newest edit of each message that `message_updated` has shown.
        self._edits: dict[int, int] = {}
        self._shown_early: set[int] = set()
        # What the last chat_updated showed, and the earliest position in `ChatTruth.looks` that this can be.
        self._look: Look | None = None
        self._place = 0
        # Sends of this socket by (client_id, text): all, those seen in the room's order, and those answered.
        self._sent: Counter[tuple[str | None, str]] = Counter()
        self._echoed: Counter[tuple[str | None, str]] = Counter()
        self._answered: Counter[tuple[str | None, str]] = Counter()
        # For each unanswered send: how many sends under its client_id had been refused before.
        self._refused_before: defaultdict[tuple[str | None, str], deque[int]] = defaultdict(deque)
        self._typing: set[Person] = set()
        # The events that a resumed socket must get before it is live.
        self._due = ["receipts user", "receipts operator", "chat_updated"] if after is not None else []
        self._malformed = _Malformed()
        self._handlers: Mapping[str, Callable[[Json], object]] = {
            "user_connected": self._on_user_connected,
            "user_disconnected": self._on_user_disconnected,
            "message_added": self._on_message_added,
            "message_updated": self._on_message_updated,
            "message_not_added": self._on_message_not_added,
            "receipts": self._on_receipts,
            "chat_updated": self._on_chat_updated,
            "typing_updated": self._on_typing_updated,
            "error": self._on_error,
        }

    @property
    def truth_of_chat(self) -> ChatTruth:
        chat = self.truth.chat(self.chat)
        assert chat is not None  # noqa: S101 - people open only existing chats
        return chat

    def opened(self) -> None:
        super().opened()
        self._announced_before = self.truth_of_chat.announced

    def frame_read(self, payload: bytes, *, binary: bool) -> None:
        if self.over:
            return
        fault = fault_of(payload, binary=binary)
        self._malformed.frame_read(fault)
        if fault is not None:
            return
        frame = _decode(payload)
        data = frame.get("data", {})
        if frame["type"] == "send_message":
            key = data.get("client_id") if self.extended else None
            self._sent[key, data["text"]] += 1
            self._refused_before[key, data["text"]].append(self.truth.refusals[self.chat, self.who, key])
            self.truth.attempts[self.chat, self.who, key] += 1

    def faulty_part_read(self, fault: Fault) -> None:
        self._malformed.frame_read(fault)

    def event_written(self, event: Json) -> None:
        name, data = event["type"], event["data"]
        # Refusals may come before anything else.
        early = ("user_connected", "message_not_added", "error", "message_added")
        if self.joined_at is None and name not in early:
            self.bad("order", f"{name} before user_connected")
        if self._due and name not in ("user_connected", "user_disconnected"):
            self._resume(name, data)
        handler = self._handlers.get(name)
        if handler is None:
            self.bad("unknown", f"{name}: {data}")
        else:
            handler(data)

    def _resume(self, name: str, data: Json) -> None:
        what = f"{name} {data['role']}" if name == "receipts" else name
        if what == self._due[0]:
            self._due.pop(0)
        elif name not in ("message_added", "message_updated", "message_not_added", "error") or len(self._due) < 3:
            self.bad("resume", f"{what} comes before {self._due[0]}")

    def closed(self, code: int) -> None:
        fault = self._malformed.wrong_close(code)
        if fault is not None:
            self.bad("malformed", fault)

    def _on_user_connected(self, data: Json) -> None:
        who = who_of(data["user"])
        if self.joined_at is None:
            self.joined_at = len(self.truth_of_chat.messages)
        if self.present.get(who) == data["user"]:
            self.bad("presence", f"{who} connected twice")
        self.present[who] = data["user"]

    def _on_user_disconnected(self, data: Json) -> None:
        who = who_of(data["user"])
        if self.present.pop(who, None) is None:
            self.bad("presence", f"{who} disconnected and was not connected")
        if not self.prompt:
            return
        for watch in self._others():
            if watch.who == who and watch.prompt:
                self.bad("presence", f"{who} disconnected, but has socket {watch.connection.number}")

    def _others(self) -> Iterator[RoomWatch]:
        """All sockets in this room, including this one."""
        for watch in self.watcher.watches:
            if not isinstance(watch, RoomWatch) or watch.over:
                continue
            if watch.chat == self.chat and watch.joined_at is not None:
                yield watch

    def _on_message_added(self, data: Json) -> None:
        message = data["message"]
        if message["chat"]["uuid"] != self.chat:
            self.bad("foreign", "a message of another chat")
        stored = self.judge_message(self.chat, message)
        if stored is None:
            return
        if stored.type.value == "system" and stored.type_role.value != self.who[0]:
            self.bad("notes", f"a system message for {stored.type_role}")
        own = stored.author is not None and person_of(stored.author) == self.who
        expected_key = stored.client_id if own and self.extended else None
        if data.get("client_id") != expected_key:
            self.bad("client-id", f"message {stored.index}: {data.get('client_id')} instead of {expected_key}")
        chat = self.truth_of_chat
        if self.last is None:
            # Messages committed before it joined may be missing here; all later ones must come.
            joined = self.joined_at
            first = None if joined is None else chat.next_visible(self.who[0], joined - 1)
            late = joined is not None and self._announced_before < stored.index < joined
            # The answer to a repeated `client_id` says nothing about what the socket got before.
            repeated = expected_key is not None and self._open_under(expected_key) is not None
            ordered = joined is not None and (stored.index == first or (late and not repeated))
        else:
            ordered = stored.index == chat.next_visible(self.who[0], self.last)
        outcome = self._outcome_of(stored, expected_key, ordered=ordered)
        answers = own and self._answered[outcome] < self._sent[outcome]
        if ordered:
            self.last = stored.index
            chat.announced = max(chat.announced, stored.index)
        elif not answers or expected_key is None:
            following = chat.next_visible(self.who[0], -1 if self.last is None else self.last)
            self.bad("total-order", f"message {stored.index} after {self.last}, next is {following}")
        if answers:
            (self._echoed if ordered else self._answered)[outcome] += 1
            self._take_refused_before(outcome)
            if not ordered:
                self.truth.settle_attempt(self.chat, self.who, expected_key)
        self._statuses.setdefault(stored.index, message["status"])

    def _outcome_of(self, stored: StoredMessage, key: str | None, *, ordered: bool) -> tuple[str | None, str]:
        """The send that the message answers. An edited message also answers another text under its `client_id`."""
        versions = self.truth_of_chat.versions(stored.index)
        outcome = (key, versions[0].message.text)
        if ordered or len(versions) == 1 or self._is_open(outcome):
            return outcome
        return self._open_under(key) or outcome

    def _open_under(self, key: str | None) -> tuple[str | None, str] | None:
        """A send under this `client_id` that is not answered yet, if there is one."""
        return next((each for each in self._sent if each[0] == key and self._is_open(each)), None)

    def _is_open(self, outcome: tuple[str | None, str]) -> bool:
        return self._echoed[outcome] + self._answered[outcome] < self._sent[outcome]

    def _on_message_updated(self, data: Json) -> None:
        edit = (data.get("edited_at"), data.get("redacted", False))
        stored = self.judge_message(self.chat, data["message"], edit if self.extended else None)
        if stored is None:
            return
        if not self.extended and data.keys() != {"message"}:
            self.bad("strict", f"message_updated on a strict socket has {sorted(data)}")
        if stored.type.value == "system" and stored.type_role.value != self.who[0]:
            self.bad("notes", f"an edit of a system message for {stored.type_role}")
        # A replay may show a new text before the event of its edit, so what `message_added` showed does not count.
        told, number = self._edits.get(stored.index, 0), self._versions[self.chat, stored.index]
        self._edits[stored.index] = number
        self.truth.know_edit(number)
        status = data["message"]["status"]
        before = self._statuses.get(stored.index)
        if before is not None and RANK[status] < RANK[before]:
            self.bad("status", f"message {stored.index} is {status} after {before}")
        repeated = number == told and (self.extended or status == before)
        if number != told and status != before:
            # A late event of a new status shows the newest text. That edit's own event comes after it.
            self._shown_early.add(number)
        elif repeated and not self.extended and number in self._shown_early:
            self._shown_early.remove(number)
            repeated = False
        # After a crash the room can't know which edits it had sent.
        if repeated and self.chat not in self.watcher.shaken:
            self.bad("status-repeat", f"message {stored.index} is {status} after {before}, with the same text")
        self._statuses[stored.index] = status

    def _on_message_not_added(self, data: Json) -> None:
        if data["code"] == "malformed":
            if self._malformed.refused() > self._malformed.sends:
                self.bad("malformed", f"a refusal of no malformed message: {data}")
            return
        key, outcome = data["client_id"], (data["client_id"], data["text"])
        self._answered[outcome] += 1
        if self._answered[outcome] > self._sent[outcome]:
            self.bad("outcome", f"refused, but not sent or already answered: {outcome} {data['code']}")
        self.truth.settle_attempt(self.chat, self.who, key)
        refused_before = self._take_refused_before(outcome)
        if key is not None and data["code"] != "conflict":
            stored = self.truth.stored(self.chat, self.who, key)
            # A correct refusal may have been delayed until another send was stored.
            if stored is not None and self.truth.refusals[self.chat, self.who, key] == refused_before:
                what = f"{key} {data['text']!r} is refused with {data['code']}"
                self.bad("refused-though-stored", f"{what} and stored as {stored.index}")

    def _take_refused_before(self, outcome: tuple[str | None, str]) -> int:
        """How many sends under its client_id had been refused when the oldest unanswered one was read."""
        waiting = self._refused_before[outcome]
        return waiting.popleft() if waiting else self.truth.refusals[self.chat, self.who, outcome[0]]

    def _on_receipts(self, data: Json) -> None:
        if not self.extended:
            self.bad("strict", "receipts on a strict socket")
        role, now = data["role"], (data["delivered"], data["read"])
        before = self._receipts.get(role, (-1, -1))
        if now[0] < before[0] or now[1] < before[1]:
            self.bad("receipts", f"{role}: {before} -> {now}")
        committed = self.truth_of_chat.model.marks[role]
        if now[0] > committed[0] or now[1] > committed[1]:
            self.bad("durable-before-visible", f"receipts {now}, committed {committed}")
        self._receipts[role] = now

    def _on_chat_updated(self, data: Json) -> None:
        if not self.extended:
            self.bad("strict", "chat_updated on a strict room socket")
        look, looks = look_of(data["chat"]), (_RESERVED, *self.truth_of_chat.looks)
        place = next((n for n in range(self._place, len(looks)) if looks[n] == look), None)
        if place is None:
            self.bad("chat-order", f"chat_updated {look} at {self._place} of {looks}", self.chat)
        else:
            self._look, self._place = look, place

    def _on_typing_updated(self, data: Json) -> None:
        who = who_of(data["user"])
        if data["text"] or who[0] == self.who[0] or not self.extended:
            self.bad("typing", f"{data}")
        (self._typing.discard if data["stopped"] else self._typing.add)(who)

    def _on_error(self, data: Json) -> None:
        if not self.extended:
            self.bad("strict", "error on a strict socket")
        if data["code"] in ("malformed", "unknown_type") and self._malformed.error() > self._malformed.errors:
            self.bad("malformed", f"an error for no malformed frame: {data}")

    def at_rest(self) -> None:
        chat, role = self.truth_of_chat, self.who[0]
        if self.chat in self.truth.expired:
            self.bad("expiry", "the socket is open in a deleted chat")
        if self._due:
            self.bad("resume", f"{self._due} never came")
        if self.last is None:
            joined = -1 if self.joined_at is None else self.joined_at - 1
            missing = chat.next_visible(role, max(joined, self._announced_before))
        else:
            missing = chat.next_visible(role, self.last)
        self._judge_newest(chat)
        if missing is not None:
            self.bad("incomplete", f"message {missing} of {chat.last_visible(role)} is missing; last {self.last}")
        for outcome, sent in self._sent.items():
            echoed, answered = self._echoed[outcome], self._answered[outcome]
            if echoed + answered < sent:
                what = f"{sent} times {outcome}: {echoed} came in order, {answered} were answered"
                self.bad("outcome", what, self.chat)
        unanswered = self._malformed.unanswered(extended=self.extended)
        if unanswered is not None:
            self.bad("malformed", unanswered)
        self._judge_presence()
        if self._typing:
            self.bad("typing-overflow" if self.watcher.drops_typing else "typing", f"{self._typing} never stopped")
        if self.extended:
            for side, told in self._receipts.items():
                if list(told) != chat.model.marks[side]:
                    self.bad("receipts", f"{side}: got {told}, is {chat.model.marks[side]}")
            if self._look is not None and self._look != chat.look:
                what = f"the last chat_updated shows {self._look}, it is {chat.look}"
                self.bad("chat-order", what, self.chat)
        else:
            for index, status in self._statuses.items():
                now = chat.status(chat.messages[index])
                if status != now:
                    self.bad("status", f"message {index} was shown as {status}, is {now}")

    def _judge_presence(self) -> None:
        here = {watch.who for watch in self._others()}
        if set(self.present) != here:
            self.bad("presence", f"shows {sorted(self.present)}, there are {sorted(here)}")
        for who, user in self.present.items():
            record = self.truth.people.get(who)
            if record is not None and user["firstname"] != record.user.firstname:
                self.bad("profile", f"{who} is shown as {user['firstname']!r}, is {record.user.firstname!r}")


@attrs.define
class _Malformed:
    """Counts the malformed frames of one socket and the answers to them."""

    errors: int = 0
    """Malformed frames for which an extended socket gets an `error`."""
    sends: int = 0
    streak: int = 0
    closes_with: set[int] = attrs.Factory(set)
    told_errors: int = 0
    told_refusals: int = 0

    def frame_read(self, fault: Fault | None) -> None:
        if self.closes_with:
            return
        if fault is None or fault is Fault.UNKNOWN:
            self.streak = 0
            self.errors += fault is not None
            return
        if fault is Fault.TYPING:
            self.errors += 1
        elif fault is Fault.TOO_BIG:
            self.closes_with.add(1009)
        elif fault is Fault.NOT_UTF8:
            self.closes_with.add(1007)
        else:
            self.streak += 1
            self.errors += fault is Fault.MALFORMED
            self.sends += fault is Fault.SEND
            if self.streak == 3:
                self.closes_with.add(1008)

    def error(self) -> int:
        self.told_errors += 1
        return self.told_errors

    def refused(self) -> int:
        self.told_refusals += 1
        return self.told_refusals

    def wrong_close(self, code: int) -> str | None:
        if code in (1007, 1008, 1009) and code not in self.closes_with:
            return f"closed with {code} after {self.streak} malformed frames in a row"
        return None

    def unanswered(self, *, extended: bool) -> str | None:
        if self.closes_with:
            return f"the socket is open, but must be closed with {sorted(self.closes_with)}"
        if self.told_refusals < self.sends:
            return f"{self.sends} malformed messages, {self.told_refusals} refused"
        if extended and self.told_errors < self.errors:
            return f"{self.errors} malformed frames, {self.told_errors} errors"
        return None

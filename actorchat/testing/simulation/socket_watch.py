"""Checks every event that the server writes to a websocket: one watch for each room or feed socket."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import attrs
import msgspec
import trio

from actorchat.chat.model import StoredMessage
from actorchat.testing.simulation.model import Json, Person, sees, wire_time
from actorchat.testing.simulation.network import Connection
from actorchat.testing.simulation.truth import RANK, ChatTruth, Look, Truth, Version, person_of
from actorchat.testing.simulation.wrong_frames import Fault, fault_of

__all__ = ["FeedWatch", "RoomWatch", "Watch", "Watcher"]

T = TypeVar("T")
Edit = tuple[str | None, bool]
"""When a message was last edited, and whether it is redacted."""
_decode: Final = msgspec.json.decode
_LESS_EXACT: Final = frozenset({"feed-order", "chat-order", "incomplete", "counters-first", "outcome"})
"""Kinds of violations that have a name of their own in chats in which a broadcast crashed."""
_RESERVED: Final[Look] = ("new", None)
"""The state of a chat before its first change."""


class Watcher(Protocol):
    """The state that the watches of one run share. `shaken` are the chats in which a broadcast crashed."""

    truth: Truth
    watches: list[Watch]
    shaken: set[str]

    def fail(self, kind: str, detail: str) -> None: ...

    def log(self, *what: object) -> None: ...

    @property
    def drops_typing(self) -> bool:
        """Whether outboxes are so small that typing may be dropped."""


def look_of(chat: Json) -> Look:
    return (chat["status"], None if chat["operator_user"] is None else chat["operator_user"]["id"])


def content_of(message: Json) -> tuple[str, list[str]]:
    """The text of a message on the wire, and the uuids of its files."""
    return (message["text"], [file["uuid"] for file in message["attachments"]])


def stored_content(version: Version) -> tuple[str, list[str]]:
    message = version.message
    return (message.text, [str(file.uuid) for file in message.attachments])


def edit_of(version: Version) -> Edit:
    edited_at = version.message.edited_at
    return (None if edited_at is None else wire_time(edited_at), version.message.redacted)


def who_of(user: Json) -> Person:
    return (user["role"], user["id"])


class Watch:
    """Checks one socket.

    `over` is true once either end sent a Close; `code` is the code of the server's. `issued` is when its token was
    issued, in epoch seconds.
    """

    def __init__(self, watcher: Watcher, connection: Connection, who: Person, *, extended: bool) -> None:
        self.watcher = watcher
        self.connection = connection
        self.who = who
        self.extended = extended
        self.truth: Truth = watcher.truth
        self.over = False
        self.code: int | None = None
        self.issued: float = 0.0
        # How many edits were known when the socket was opened, and the newest one of each message that it got.
        self._known_before = 0
        self._versions: dict[tuple[str, int], int] = {}

    @property
    def prompt(self) -> bool:
        """Whether output has not been delayed lately, so that events are written as they happen."""
        out = self.connection.server.out
        return out.free > 0 and trio.current_time() - out.full_at > 10

    @property
    def alive(self) -> bool:
        client, server = self.connection.client, self.connection.server
        return not (self.over or client.closed or client.broken or server.broken or server.out.lossy)

    def bad(self, kind: str, detail: str, chat: str | None = None) -> None:
        if kind in _LESS_EXACT and chat in self.watcher.shaken:
            kind += "-after-crash"
        self.watcher.fail(kind, f"socket {self.connection.number} of {self.who}: {detail}")

    def opened(self) -> None:
        """The server has accepted the upgrade."""
        self._known_before = len(self.truth.known_edits)

    def frame_read(self, payload: bytes, *, binary: bool) -> None:
        """The server has read a frame."""

    def faulty_part_read(self, fault: Fault) -> None:
        """The server has read a part of a frame which is enough reason to close the socket."""

    def event_written(self, event: Json) -> None:
        """The server has written an event."""

    def closed(self, code: int) -> None:
        """The server has written a Close."""

    def at_rest(self) -> None:
        """Check that this open socket has received everything, now that the world is at rest."""

    def judge_message(self, chat: str, message: Json, edit: Edit | None = None) -> StoredMessage | None:
        """Return the stored message, and check that `message` shows it as it was committed.

        `edit` is when the message was last edited and whether it is redacted, if the socket was told.
        """
        stored, truth = self.truth.message(chat, message["message_index"]), self.truth.chat(chat)
        if stored is None or truth is None:
            self.bad("durable-before-visible", f"message {message['message_index']} of {chat} is not committed")
            return None
        author = None if message["user"] is None else who_of(message["user"])
        stored_author = None if stored.author is None else person_of(stored.author)
        told = (message["id"], message["type"], message["type_role"], author)
        if told != (stored.id, stored.type.value, stored.type_role.value, stored_author):
            self.bad("content", f"{message} was stored as {stored}")
        self._judge_version(truth, message, edit)
        if RANK[message["status"]] > RANK[truth.status(stored)]:
            self.bad("status", f"message {stored.index} is shown as {message['status']}")
        return stored

    def _judge_version(self, chat: ChatTruth, message: Json, edit: Edit | None) -> None:
        """Check that a message is not shown as it was before an edit that is older than this socket or was shown."""
        index, told = message["message_index"], content_of(message)
        place, versions = (chat.uuid, index), chat.versions(index)
        known = [each.number for each in versions if self.truth.was_known(each.number, self._known_before)]
        oldest = max([*known, self._versions.get(place, 0)], default=0)
        fitting = [version for version in versions if told == stored_content(version)]
        if not fitting:
            self.bad("content", f"message {index} is shown as {told}, it was {list(map(stored_content, versions))}")
        elif fitting[-1].number < oldest:
            self.bad("edits", f"message {index} is shown as {told} after edit {oldest}")
        shown = [version for version in fitting if version.number >= oldest]
        if edit is not None:
            # Tells versions of the same content apart.
            edits = list(map(edit_of, shown))
            shown = [version for version in shown if edit_of(version) == edit]
            if edits and not shown:
                self.bad("edits", f"message {index}: {edit} instead of {edits}")
        self._versions[place] = shown[0].number if shown else oldest

    def _judge_newest(self, chat: ChatTruth) -> None:
        """Check that the edits of all messages that the socket has shown have arrived."""
        for index in chat.edited_indexes:
            told, newest = self._versions.get((chat.uuid, index)), chat.versions(index)[-1]
            shown = next((each for each in chat.versions(index) if each.number == told), None)
            # A strict socket can't tell versions of the same content apart.
            if shown is not None and stored_content(shown) != stored_content(newest):
                self.bad("edits", f"message {index} is shown as of edit {told}, the newest is {newest}", chat.uuid)


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
            ordered = joined is not None and (stored.index == first or self._announced_before < stored.index < joined)
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
        return next((each for each in self._sent if each[0] == key and self._is_open(each)), outcome)

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


class FeedWatch(Watch):
    def __init__(
        self, watcher: Watcher, connection: Connection, who: Person, sources: frozenset[str], *, extended: bool
    ) -> None:
        super().__init__(watcher, connection, who, extended=extended)
        self.sources = sources
        # The positions in each chat's events that the socket may have reached: an event may match several.
        self._places: dict[str, set[int]] = {}
        self._chats: dict[str, Json] = {}
        self._summaries: dict[str, Json] = {}
        self._operators: dict[int, Json] = {}
        self._unread: int | None = None
        self._unread_place = 0
        self._load_places: dict[int, int] = {}
        self._typing: set[tuple[str, str, int]] = set()
        self._opened_at = 0.0
        # The number of each chat's events when the snapshot began; chats that were closed then are not in it.
        self._floor: dict[str, int] | None = None

    def opened(self) -> None:
        super().opened()
        self._opened_at = trio.current_time()

    def event_written(self, event: Json) -> None:
        name, data = event["type"], event["data"]
        if self._floor is None and name != "error":
            self._floor = {uuid: len(chat.feed) for uuid, chat in self.truth.chats.items()}
        if name == "chat_updated":
            self._on_chat(data["chat"])
        elif name == "message_added":
            message = data["message"]
            stored = self.judge_message(message["chat"]["uuid"], message)
            if stored is not None:
                if stored.type.value == "system":
                    self.bad("notes", "a system message on the feed")
                self._advance(message["chat"], ("message", message["message_index"]))
        elif name == "operator_updated":
            self._operators[data["user"]["id"]] = data
            self._on_load(data["user"]["id"], (data["new_chats"], data["open_chats"]))
        elif name == "global_updated":
            self._unread = data["unread_chats"]
            if len(self.sources) == 1:
                [source] = self.sources
                self._unread_place = self._forward(self.truth.unread[source], self._unread_place, self._unread)
        elif name == "typing_updated":
            key = (data["chat_id"], data["user"]["role"], data["user"]["id"])
            (self._typing.discard if data["stopped"] else self._typing.add)(key)
        elif name in ("note_added", "message_updated") and self.extended:
            stored = self.judge_message(data["message"]["chat"]["uuid"], data["message"])
            if stored is not None and stored.type.value == "system" and stored.type_role.value != "operator":
                self.bad("notes", "a system message for visitors on the feed")
        elif name == "chat_summary" and self.extended:
            self._on_summary(data)
        elif name not in ("error", "pong", "feed_ready") or not self.extended:
            self.bad("unknown", name)

    def _on_summary(self, summary: Json) -> None:
        chat = self.truth.chat(summary["chat"]["uuid"])
        if chat is None:
            self.bad("foreign", f"a summary of the unknown chat {summary['chat']['uuid']}")
        elif chat.model.source not in self.sources:
            self.bad("foreign", "a summary of a chat of another source")
        else:
            self._summaries[chat.uuid] = summary

    def _on_chat(self, chat: Json) -> None:
        self._advance(chat, ("chat", *look_of(chat)))

    def _forward(self, history: Sequence[T], place: int, value: T) -> int:
        """Return the next position of `value` in a counter's history: a feed never goes back to an earlier value."""
        found = next((n for n in range(place, len(history)) if history[n] == value), None)
        if found is None:
            self.bad("counter-order", f"{value} after place {place} of {history[-12:]}")
            return place
        return found

    def _on_load(self, operator: int, load: tuple[int, int]) -> None:
        history = self.truth.loads[operator]
        place = self._forward([each[0] for each in history], self._load_places.get(operator, 0), load)
        self._load_places[operator] = place
        _, uuid, reach = history[place]
        settled = trio.current_time() > self._opened_at + 5 and self.prompt
        if uuid in self._places and settled and reach and max(self._places[uuid]) < reach - 1:
            what = f"{load} of operator {operator} comes before event {reach - 1} of {uuid[:4]}"
            self.bad("counters-first", what, uuid)

    def _advance(self, chat: Json, event: tuple[object, ...]) -> None:
        uuid = chat["uuid"]
        if chat["widget"]["source"] not in self.sources:
            self.bad("foreign", "a chat of another source")
        self._chats[uuid] = chat
        truth = self.truth.chat(uuid)
        if truth is None:
            self.bad("durable-before-visible", f"the chat {uuid} is not committed", uuid)
            return
        events = truth.feed
        if uuid not in self._places:
            # A snapshot shows the chat as it was after any of its events.
            places = {n for n, each in enumerate(events) if event in (each, _look_at(events, n))}
        else:
            places = {n + 1 for n in self._places[uuid] if n + 1 < len(events) and events[n + 1] == event}
        if places:
            self._places[uuid] = places
        elif event[0] == "chat" and any(event == _look_at(events, n) for n in self._places.get(uuid, ())):
            self.bad("chat-repeat", f"{event} of {uuid[:4]} again")
        else:
            shown = self._places.pop(uuid, None)
            self.bad("feed-order", f"{event} of {uuid[:4]} after {shown} of {list(enumerate(events))[-12:]}", uuid)

    def at_rest(self) -> None:
        for uuid, chat in self.truth.chats.items():
            if chat.model.source not in self.sources:
                continue
            end = len(chat.feed) - 1
            shown = self._places.get(uuid)
            if shown is None:
                floor = 0 if self._floor is None else self._floor.get(uuid, 0)
                if chat.feed and (chat.model.active or len(chat.feed) > floor):
                    self.bad("incomplete", f"chat {uuid[:4]} was never shown")
            elif end not in shown:
                self.bad("incomplete", f"chat {uuid[:4]}: shown up to {shown} of {end}: {chat.feed[-6:]}", uuid)
            elif chat.model.active:
                self._judge_profiles(uuid)
            if self.extended and chat.feed and shown is not None:
                self._judge_summary(chat)
            if self.extended:
                self._judge_newest(chat)
        for who in self.truth.model.operators(self.sources):
            self._judge_operator(who)
        unread = self.truth.model.unread(self.sources)
        if self._unread != unread:
            self.bad("counters", f"unread: got {self._unread}, is {unread}")
        if self._typing:
            self.bad("typing-overflow" if self.watcher.drops_typing else "typing", f"{self._typing} never stopped")

    def _judge_summary(self, chat: ChatTruth) -> None:
        """Check that the last summary shows the chat as it is."""
        summary = self._summaries.get(chat.uuid)
        if summary is None:
            self.bad("summary", f"chat {chat.uuid[:4]} has no summary")
            return
        seen = [
            each for each in chat.messages if sees("operator", {"type": each.type.value, "role": each.type_role.value})
        ]
        read = chat.model.marks["operator"][1]
        unread = [each for each in seen if (each.type.value, each.type_role.value) == ("standard", "user")]
        last = None if summary["last"] is None else summary["last"]["text"]
        told = (look_of(summary["chat"]), last, summary["unread"])
        now = (chat.look, seen[-1].text[:160] if seen else None, sum(each.index > read for each in unread))
        if told != now:
            self.bad("summary", f"chat {chat.uuid[:4]}: got {told}, is {now}")

    def _judge_profiles(self, uuid: str) -> None:
        shown = self._chats[uuid]
        for user in (shown["owner_user"], shown["operator_user"]):
            record = None if user is None else self.truth.people.get(who_of(user))
            if record is not None and user["firstname"] != record.user.firstname:
                what = f"chat {uuid[:4]} shows {user['firstname']!r}, is {record.user.firstname!r}"
                self.bad("profile", what)

    def _judge_operator(self, who: Person) -> None:
        load, told = self.truth.model.load(who), self._operators.get(who[1])
        online = who not in self.truth.model.away and any(
            isinstance(watch, FeedWatch) and watch.who == who and not watch.over for watch in self.watcher.watches
        )
        if told is None:
            self.bad("incomplete", f"operator {who} was never shown")
        elif (told["new_chats"], told["open_chats"]) != load:
            self.bad("counters", f"operator {who}: got {told['new_chats']}, {told['open_chats']}, is {load}")
        elif told["is_online"] != online:
            self.bad("online", f"operator {who}: got {told['is_online']}, is {online}")


def _look_at(events: Sequence[tuple[object, ...]], place: int) -> tuple[object, ...] | None:
    """How the chat looks after the event at `place`."""
    return next((each for each in reversed(events[: place + 1]) if each[0] == "chat"), None)

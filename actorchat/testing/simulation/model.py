"""A second, simple implementation of the contract's rules, to compare the server with.

It imports nothing of the server. People are pairs (role, id), times are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from unittest.mock import ANY
from uuid import UUID

import attrs

# Any: JSON of every shape
Json = dict[str, Any]
Person = tuple[str, int]

TYPING_INTERVAL, TYPING_SILENCE = 0.25, 6.0
PRESENCE_GRACE, OFFLINE_GRACE = 5.0, 30.0
KEYS_KEPT = 256


@attrs.frozen
class Refusal:
    code: str


@attrs.frozen
class Repeat:
    """The operation repeats an earlier send: its sender gets the stored message again."""

    index: int


@attrs.frozen
class Nothing:
    """The operation changes nothing."""


@attrs.frozen(eq=False)
class Commit:
    """One commit as it is broadcast: `messages` and `updated` as on the wire, `receipts` as (role, delivered, read)."""

    chat: UUID
    wire: Json
    chat_changed: bool
    messages: tuple[Json, ...]
    author: Person | None = None
    key: str | None = None
    receipts: tuple[tuple[str, int, int], ...] = ()
    updated: tuple[Json, ...] = ()


Answer = Commit | Refusal | Repeat | Nothing


@attrs.define(eq=False)
class Upload:
    """A file. `bound` once a message has it."""

    uploader: Person
    created: int
    bound: bool = False


@attrs.define(eq=False)
class Typing:
    on: bool = False
    sent_at: float = -1.0
    pending: tuple[str, bool] | None = None
    last: float = 0.0


@attrs.define(eq=False)
class Chat:
    uuid: UUID
    source: str
    owner: Person
    stage: str = "reserved"
    operator: Person | None = None
    messages: list[Json] = attrs.Factory(list)
    marks: dict[str, list[int]] = attrs.Factory(lambda: {"user": [-1, -1], "operator": [-1, -1]})
    keys: dict[Person, list[tuple[str, int]]] = attrs.Factory(dict)
    sockets: dict[Person, int] = attrs.Factory(dict)
    gone_at: dict[Person, float] = attrs.Factory(dict)
    typing: dict[Person, Typing] = attrs.Factory(dict)

    @property
    def active(self) -> bool:
        return self.stage in ("new", "open")

    @property
    def listed(self) -> bool:
        return self.stage != "reserved"


def other(role: str) -> str:
    return "operator" if role == "user" else "user"


def wire_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")


class Model:
    """The state of all chats. Each method applies one operation and returns what must be broadcast."""

    def __init__(
        self,
        *,
        on_closed: str = "reopen",
        capacity: int = 0,
        longest: int = 4_000,
        keys_kept: int = KEYS_KEPT,
        edit_within: float = 900,
        upload_timeout: float = 86_400,
    ) -> None:
        self.on_closed = on_closed
        self.capacity = capacity
        self.longest = longest
        self.keys_kept = keys_kept
        self.edit_within = edit_within
        self.upload_timeout = upload_timeout
        self.people: dict[Person, Json] = {}
        self.sources: dict[Person, frozenset[str]] = {}
        self.online: set[Person] = set()
        self.away: set[Person] = set()
        self.consoles: dict[Person, int] = {}
        self.consoles_gone_at: dict[Person, float] = {}
        self.chats: dict[UUID, Chat] = {}
        self.uploads: dict[UUID, Upload] = {}

    # People

    def person(self, who: Person, name: str, sources: frozenset[str] = frozenset()) -> None:
        role, id_ = who
        self.people[who] = {
            "id": id_, "role": role, "avatar": "", "lastname": "", "firstname": name, "patronymic": "",
        }  # fmt: skip
        self.sources[who] = sources

    def operators(self, sources: frozenset[str]) -> list[Person]:
        return [who for who in self.people if who[0] == "operator" and self.sources[who] & sources]

    def load(self, who: Person) -> tuple[int, int]:
        """(new_chats, open_chats)."""
        theirs = [chat.stage for chat in self.chats.values() if chat.operator == who]
        return theirs.count("new"), theirs.count("open")

    def operator_wire(self, who: Person) -> Json:
        new, open_ = self.load(who)
        return {"user": self.people[who], "is_online": self.is_online(who), "new_chats": new, "open_chats": open_}

    def is_online(self, who: Person) -> bool:
        return who in self.online and who not in self.away

    def unread(self, sources: frozenset[str]) -> int:
        return sum(self._unread(chat) for chat in self.chats.values() if chat.source in sources)

    @staticmethod
    def _unread(chat: Chat) -> bool:
        theirs = [each["index"] for each in chat.messages if each["type"] == "standard" and each["role"] == "user"]
        return chat.active and bool(theirs) and theirs[-1] > chat.marks["operator"][1]

    # Wire format

    def chat_wire(self, chat: Chat) -> Json:
        return {
            "uuid": str(chat.uuid),
            "widget": {"source": chat.source},
            "status": "new" if chat.stage == "reserved" else chat.stage,
            "owner_user": self.people[chat.owner],
            "operator_user": None if chat.operator is None else self.people[chat.operator],
        }

    def message_wire(self, chat: Chat, message: Json) -> Json:
        """The message as it is now, but without its id, which only the server knows."""
        author = message["author"]
        return {
            "type": message["type"],
            "type_role": message["role"],
            "status": self._status(chat, message),
            "text": message["text"],
            "send_time": wire_time(message["time"]),
            "message_index": message["index"],
            "chat": self.chat_wire(chat),
            "user": None if author is None else self.people[author],
            "attachments": [],
        }

    @staticmethod
    def _status(chat: Chat, message: Json) -> str:
        if message["type"] == "system":
            return "new"
        delivered, read = chat.marks[other(message["role"])]
        index = message["index"]
        return "read" if index <= read else "delivered" if index <= delivered else "new"

    def history(self, chat: Chat, role: str, after: int = -1) -> list[Json]:
        return [self.message_wire(chat, each) for each in chat.messages if each["index"] > after and sees(role, each)]

    def resume(self, chat: Chat, who: Person, after: int) -> list[Json]:
        """The events that a socket opened with `after` gets before live ones."""
        events = [self.added(chat, each, who) for each in chat.messages if each["index"] > after and sees(who[0], each)]
        receipts = [receipt(chat.uuid, role, *chat.marks[role]) for role in ("user", "operator")]
        return [*events, *receipts, {"type": "chat_updated", "data": {"chat": self.chat_wire(chat)}}]

    def added(self, chat: Chat, message: Json, who: Person) -> Json:
        """`message_added` for an extended socket of `who`."""
        data: Json = {"message": self.message_wire(chat, message)}
        if message["key"] is not None and message["author"] == who:
            data["client_id"] = message["key"]
        return {"type": "message_added", "data": data}

    def room_events(self, commit: Commit, who: Person, extended: bool) -> list[Json]:
        """The events that a live socket of `who` gets for a commit."""
        events: list[Json] = []
        if extended and commit.chat_changed:
            events.append({"type": "chat_updated", "data": {"chat": commit.wire}})
        for message in commit.messages:
            if message["type"] == "standard" or message["type_role"] == who[0]:
                data: Json = {"message": message}
                if extended and commit.key is not None and commit.author == who:
                    data["client_id"] = commit.key
                events.append({"type": "message_added", "data": data})
        if extended:
            events += [receipt(commit.chat, *each) for each in commit.receipts]
        else:
            events += [{"type": "message_updated", "data": {"message": message}} for message in commit.updated]
        return events

    @staticmethod
    def feed_events(commit: Commit) -> list[Json]:
        events: list[Json] = [{"type": "chat_updated", "data": {"chat": commit.wire}}] if commit.chat_changed else []
        standard = [message for message in commit.messages if message["type"] == "standard"]
        return events + [{"type": "message_added", "data": {"message": message}} for message in standard]

    # Messages and marks

    def send(
        self,
        chat: Chat,
        who: Person,
        text: str,
        now: float,
        key: str | None = None,
        *,
        attachments: Sequence[UUID] = (),
        note_for: str | None = None,
    ) -> Answer:
        """Send a standard message, or with `note_for` a system message for that role."""
        body = ("standard" if note_for is None else "system", note_for or who[0], text)
        known = dict(chat.keys.get(who, [])[-self.keys_kept :])
        if key is not None and key in known:
            stored = chat.messages[known[key]]
            same = (stored["type"], stored["role"], stored["text"]) == body and stored["files"] == tuple(attachments)
            # The original of an edited message is not stored any more, so nothing can be compared with it.
            return Repeat(known[key]) if same or stored["edited"] else Refusal("conflict")
        if not text and not attachments:
            return Refusal("empty")
        if len(text) > self.longest:
            return Refusal("too_long")
        if len(attachments) > 10:
            return Refusal("too_many_attachments")
        if attachments and not self._may_bind(who, attachments, now):
            return Refusal("attachment_unknown")
        before = (chat.stage, chat.operator)
        if note_for is not None:
            refusal = Refusal("conflict") if chat.stage == "reserved" else None
        else:
            refusal = self._visitor_writes(chat) if who[0] == "user" else self._take(chat, who)
        if refusal is not None:
            return refusal
        self._add(chat, body[0], body[1], text, who, now, key, tuple(attachments))
        for file in attachments:
            self.uploads[file].bound = True
        return self._commit(chat, before, 1, author=who, key=key)

    def _may_bind(self, who: Person, files: Sequence[UUID], now: float) -> bool:
        """Whether all of them are unused uploads of this person that have not expired, each named once."""
        uploads = [self.uploads.get(file) for file in files]
        oldest = int(now) - self.upload_timeout
        usable = [
            upload is not None and not upload.bound and upload.uploader == who and upload.created > oldest
            for upload in uploads
        ]
        return all(usable) and len(set(files)) == len(files)

    def _visitor_writes(self, chat: Chat) -> Refusal | None:
        if chat.stage == "reserved":
            chat.stage = "new"
        elif chat.stage == "closed":
            return self._back_from_closed(chat)
        return None

    def _back_from_closed(self, chat: Chat) -> Refusal | None:
        if self.on_closed == "refuse":
            return Refusal("chat_closed")
        operator = chat.operator
        there = operator is not None and self.is_online(operator) and chat.source in self.sources.get(operator, ())
        if self.on_closed == "queue" or operator is None or not there or self._full(operator):
            chat.stage, chat.operator = "new", None
        else:
            chat.stage = "open"
        return None

    def _take(self, chat: Chat, operator: Person) -> Refusal | None:
        if chat.stage == "open":
            return None if chat.operator == operator else Refusal("not_owner")
        if not (chat.active and chat.operator == operator) and self._full(operator):
            return Refusal("over_capacity")
        chat.stage, chat.operator = "open", operator
        return None

    def _full(self, operator: Person) -> bool:
        return 0 < self.capacity <= sum(self.load(operator))

    def _add(
        self,
        chat: Chat,
        type_: str,
        role: str,
        text: str,
        author: Person | None,
        now: float,
        key: str | None = None,
        files: tuple[UUID, ...] = (),
    ) -> None:
        index = len(chat.messages)
        chat.messages.append(
            {
                "type": type_, "role": role, "text": text, "author": author, "time": int(now), "index": index,
                "key": key, "files": files, "edited": False, "redacted": False, "by_server": text is ANY,
            }
        )  # fmt: skip
        if key is not None and author is not None:
            chat.keys.setdefault(author, []).append((key, index))

    def _commit(
        self,
        chat: Chat,
        before: tuple[str, Person | None],
        count: int,
        author: Person | None = None,
        key: str | None = None,
    ) -> Commit:
        messages = tuple(self.message_wire(chat, each) for each in chat.messages[len(chat.messages) - count :])
        changed = before != (chat.stage, chat.operator)
        return Commit(chat.uuid, self.chat_wire(chat), changed, messages, author, key)

    def mark(self, chat: Chat, who: Person, index: int | None, read: bool) -> Answer:
        """Mark a message as delivered or read. `index` None stands for a message of another chat."""
        if index is None or not sees(who[0], chat.messages[index]):
            return Refusal("message_not_found")
        if chat.messages[index]["type"] == "system" or chat.messages[index]["role"] == who[0]:
            return Refusal("not_markable")
        before = [self._status(chat, each) for each in chat.messages]
        marks = chat.marks[who[0]]
        now = [max(marks[0], index), max(marks[1], index) if read else marks[1]]
        if now == marks:
            return Nothing()
        chat.marks[who[0]] = now
        changed = [each for each, was in zip(chat.messages, before, strict=True) if self._status(chat, each) != was]
        updated = tuple(self.message_wire(chat, each) for each in changed)
        return Commit(chat.uuid, self.chat_wire(chat), False, (), receipts=((who[0], now[0], now[1]),), updated=updated)

    # Edits

    def edit(self, chat: Chat, who: Person, index: int | None, text: str, now: float) -> Answer:
        """Replace the text of a message. `index` None stands for a message of another chat."""
        message = None if index is None else chat.messages[index]
        refusal = self._unchangeable(message, who, now, moderates=False)
        if refusal is not None or message is None:
            return refusal or Refusal("not_found")
        if message["redacted"]:
            return Refusal("conflict")
        if message["text"] == text:
            return Repeat(message["index"])
        if not text and not message["files"]:
            return Refusal("empty")
        return self._change(chat, message, text=text)

    def redact(
        self, chat: Chat, who: Person, index: int | None, now: float, *, moderates: bool = False, erases: bool = False
    ) -> Answer:
        """Remove a message's text and files. `erases`: as a part of the erasure of a person."""
        message = None if index is None else chat.messages[index]
        refusal = None if erases else self._unchangeable(message, who, now, moderates=moderates)
        if refusal is not None or message is None:
            return refusal or Refusal("not_found")
        if message["redacted"]:
            return Repeat(message["index"])
        for file in message["files"]:
            del self.uploads[file]
        return self._change(chat, message, text="", files=(), redacted=True, by_server=False)

    def _unchangeable(self, message: Json | None, who: Person, now: float, *, moderates: bool) -> Refusal | None:
        if message is None or not sees(who[0], message):
            return Refusal("not_found")
        if message["author"] is None or message["by_server"]:
            return Refusal("not_allowed")
        if moderates:
            return None
        if message["author"] != who:
            return Refusal("not_allowed")
        return Refusal("too_late") if int(now) - message["time"] >= self.edit_within else None

    def _change(self, chat: Chat, message: Json, **changes: object) -> Commit:
        message.update(changes, edited=True)
        updated = (self.message_wire(chat, message),)
        return Commit(chat.uuid, self.chat_wire(chat), False, (), updated=updated)

    def expire_uploads(self, files: Sequence[UUID], before: float) -> list[UUID]:
        """Forget those of `files` that no message has and that were uploaded at `before` or earlier. Returns them."""
        found = [file for file in files if file in self.uploads]
        gone = [file for file in found if not self.uploads[file].bound and self.uploads[file].created <= before]
        for file in gone:
            del self.uploads[file]
        return gone

    def remove(self, chat: Chat) -> list[UUID]:
        """Delete a chat with its messages, as retention does. Returns their files."""
        files = [file for message in chat.messages for file in message["files"]]
        for file in files:
            del self.uploads[file]
        del self.chats[chat.uuid]
        return files

    # Transitions

    def reserve(self, uuid: UUID, source: str, owner: Person) -> Chat:
        chat = self.chats[uuid] = Chat(uuid, source, owner)
        return chat

    def unclosed(self, source: str, owner: Person) -> list[UUID]:
        return [
            chat.uuid
            for chat in self.chats.values()
            if (chat.source, chat.owner) == (source, owner) and chat.stage != "closed"
        ]

    def accept(self, chat: Chat, who: Person) -> Answer:
        before = (chat.stage, chat.operator)
        refusal = Refusal("chat_closed") if chat.stage == "closed" else self._take(chat, who)
        if refusal is not None:
            return refusal
        return self._commit(chat, before, 0) if before != (chat.stage, chat.operator) else Nothing()

    def close(self, chat: Chat, who: Person, now: float) -> Answer:
        refusal = self._inactive(chat)
        if refusal is None and who[0] == "operator" and chat.operator not in (None, who):
            refusal = Refusal("not_owner")
        if refusal is not None:
            return refusal
        return self._pass_on(chat, "closed", chat.operator, who, now, ("user",))

    def reopen(self, chat: Chat, who: Person, now: float) -> Answer:
        if chat.stage != "closed":
            return Refusal("conflict")
        before = (chat.stage, chat.operator)
        refusal = self._back_from_closed(chat) if who[0] == "user" else self._take(chat, who)
        if refusal is not None:
            return refusal
        self._add(chat, "system", "user", ANY, who, now)
        return self._commit(chat, before, 1)

    def transfer(self, chat: Chat, who: Person, to: Person, now: float) -> Answer:
        refusal = self._inactive(chat)
        if refusal is None and chat.source not in self.sources.get(to, ()):
            refusal = Refusal("not_found")
        if refusal is not None:
            return refusal
        if chat.operator == to:
            return Nothing()
        if self._full(to):
            return Refusal("over_capacity")
        return self._pass_on(chat, "new", to, who, now, ("user", "operator"))

    def give_back(self, chat: Chat, who: Person, now: float) -> Answer:
        refusal = self._inactive(chat)
        if refusal is None and chat.operator != who:
            refusal = Refusal("not_owner")
        return refusal or self.requeue(chat, who, now)

    def requeue(self, chat: Chat, by: Person | None, now: float) -> Commit:
        """Return the chat to the queue, as its operator, the answer timer or the end of a grace period does."""
        return self._pass_on(chat, "new", None, by, now, ("user", "operator"))

    def close_idle(self, chat: Chat, now: float) -> Commit:
        """Close the chat as the idle timer does."""
        return self._pass_on(chat, "closed", chat.operator, None, now, ("user",))

    @staticmethod
    def _inactive(chat: Chat) -> Refusal | None:
        codes = {"closed": "chat_closed", "reserved": "conflict"}
        return Refusal(codes[chat.stage]) if chat.stage in codes else None

    def _pass_on(
        self, chat: Chat, stage: str, operator: Person | None, by: Person | None, now: float, roles: tuple[str, ...]
    ) -> Commit:
        before = (chat.stage, chat.operator)
        chat.stage, chat.operator = stage, operator
        for role in roles:
            self._add(chat, "system", role, ANY, by, now)
        return self._commit(chat, before, len(roles))

    # Presence: the caller knows which sockets were notified of whom

    def arrive(self, chat: Chat, who: Person) -> bool:
        """Add a socket. Returns whether others are notified: it is the user's first."""
        new = who not in chat.sockets
        chat.sockets[who] = chat.sockets.get(who, 0) + 1
        chat.gone_at.pop(who, None)
        return new

    def depart(self, chat: Chat, who: Person, now: float) -> None:
        chat.sockets[who] -= 1
        if not chat.sockets[who]:
            chat.gone_at[who] = now

    def lapse(self, chat: Chat, who: Person) -> None:
        del chat.sockets[who], chat.gone_at[who]

    def open_console(self, who: Person) -> None:
        self.consoles[who] = self.consoles.get(who, 0) + 1
        self.consoles_gone_at.pop(who, None)
        self.online.add(who)

    def close_console(self, who: Person, now: float) -> None:
        self.consoles[who] -= 1
        if not self.consoles[who]:
            self.consoles_gone_at[who] = now

    def go_offline(self, who: Person, now: float) -> list[Commit]:
        del self.consoles_gone_at[who]
        self.online.discard(who)
        theirs = [chat for chat in self.chats.values() if chat.active and chat.operator == who]
        return [self.requeue(chat, None, now) for chat in theirs]

    def refresh(self, chat: Chat) -> Commit | Nothing:
        """Broadcast the chat again, with its people as they are now."""
        return Commit(chat.uuid, self.chat_wire(chat), True, ()) if chat.active else Nothing()

    def tag(self, chat: Chat) -> Commit | Refusal:
        """Change the chat's tags, which no socket is told except in summaries."""
        if chat.stage == "reserved":
            return Refusal("conflict")
        return Commit(chat.uuid, self.chat_wire(chat), False, ())

    def renamed(self, who: Person) -> list[Commit]:
        """Broadcast all active chats of a person whose new name is stored."""
        theirs = [chat for chat in self.chats.values() if chat.active and who in (chat.owner, chat.operator)]
        return [Commit(chat.uuid, self.chat_wire(chat), True, ()) for chat in theirs]

    # Typing: each method returns the (text, stopped) that are broadcast at once

    def type(self, chat: Chat, who: Person, text: str, stopped: bool, now: float) -> list[tuple[str, bool]]:
        typing = chat.typing.setdefault(who, Typing())
        typing.last = now
        if stopped and not typing.on:
            typing.pending = None
            return []
        typing.pending = ("", True) if stopped else (text, False)
        return self.typing_due(typing, now)

    @staticmethod
    def typing_due(typing: Typing, now: float) -> list[tuple[str, bool]]:
        if typing.pending is None or now < typing.sent_at + TYPING_INTERVAL:
            return []
        passed, typing.pending = typing.pending, None
        typing.on, typing.sent_at = not passed[1], now
        return [passed]

    @staticmethod
    def stop_typing(chat: Chat, who: Person, now: float) -> list[tuple[str, bool]]:
        typing = chat.typing.get(who)
        if typing is None:
            return []
        typing.pending = None
        if not typing.on:
            return []
        typing.on, typing.sent_at = False, now
        return [("", True)]

    def moments(self) -> list[float]:
        """The times at which a timer changes something next, unsorted."""
        found = [at + OFFLINE_GRACE for at in self.consoles_gone_at.values()]
        for chat in self.chats.values():
            found += [at + PRESENCE_GRACE for at in chat.gone_at.values()]
            for typing in chat.typing.values():
                if typing.pending is not None:
                    found.append(typing.sent_at + TYPING_INTERVAL)
                if typing.on or typing.pending is not None:
                    found.append(typing.last + TYPING_SILENCE)
        return found


def sees(role: str, message: Json) -> bool:
    return bool(message["type"] == "standard" or message["role"] == role)


def receipt(chat: UUID, role: str, delivered: int, read: int) -> Json:
    return {"type": "receipts", "data": {"chat_id": str(chat), "role": role, "delivered": delivered, "read": read}}

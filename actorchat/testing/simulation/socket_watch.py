"""Checks what room and feed sockets have in common: how messages are shown, and what is an error."""

from __future__ import annotations

from typing import Final, Protocol

import trio

from actorchat.chat.model import StoredMessage
from actorchat.testing.simulation.chat_truth import RANK, ChatTruth, Look, Version, person_of
from actorchat.testing.simulation.model import Json, Person, wire_time
from actorchat.testing.simulation.network import Connection
from actorchat.testing.simulation.truth import Truth
from actorchat.testing.simulation.wrong_frames import Fault

__all__ = ["Watch", "Watcher", "look_of", "stored_content", "who_of"]

Edit = tuple[str | None, bool]
"""When a message was last edited, and whether it is redacted."""
_LESS_EXACT: Final = frozenset({"feed-order", "chat-order", "incomplete", "counters-first", "outcome"})
"""Kinds of violations that have a name of their own in chats in which a broadcast crashed."""


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

"""Checks every event that the server writes to the websocket of a feed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import trio

from actorchat.testing.simulation.chat_truth import ChatTruth
from actorchat.testing.simulation.model import Json, Person, sees
from actorchat.testing.simulation.network import Connection
from actorchat.testing.simulation.socket_watch import Watch, Watcher, look_of, who_of

__all__ = ["FeedWatch"]

T = TypeVar("T")


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

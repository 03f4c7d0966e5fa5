"""Random sessions that apply each step to the real chat and to the model, and compare the results.

The model is `actorchat/testing/simulation/model.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final
from uuid import UUID, uuid4

import attrs
import pytest
import trio

from actorchat.chat import ChatRefused
from actorchat.chat.broadcast import Broadcast
from actorchat.chat.encoding import Encoder
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    ChatOperation,
    CloseChat,
    RecordPerson,
    ReopenChat,
    ReturnChat,
    TransferChat,
)
from actorchat.chat.ports import ChatFilter
from actorchat.chat.publisher import PendingReplies, Publisher
from actorchat.chat.room import Room
from actorchat.protocol import MessageType, Profile, Role, User, encode_entity
from actorchat.testing.simulation.model import Answer, Chat, Commit, Json, Model, Person, Refusal, Repeat
from tests.system.virtual_time_chat import ClientSession, VirtualTimeChat

SOURCES: Final = {
    ("operator", 1): frozenset({"lk"}),
    ("operator", 2): frozenset({"lk", "shop"}),
    ("operator", 3): frozenset({"shop"}),
    ("user", 1): frozenset[str](),
    ("user", 7): frozenset[str](),
    ("user", 8): frozenset[str](),
}
"""Ids are unique within a role only: 1 is both a visitor and an operator."""

OPERATORS: Final = [who for who in SOURCES if who[0] == "operator"]
VISITORS: Final = [who for who in SOURCES if who[0] == "user"]
STRANGER: Final = ("operator", 99)
MOST_TABS, MOST_CONSOLES, MOST_CHATS = 14, 5, 9

CRASHES: Final = [
    (PendingReplies, "settle"),
    (Publisher, "publish"),
    (Broadcast, "_encode"),
    (Encoder, "added"),
    (Room, "_take"),
]

WEIGHTS: Final = {
    "send": 24, "burst": 12, "bad": 5, "mark": 12, "typing": 8, "join": 9, "resume": 8, "leave": 9,
    "console": 4, "leave_console": 3, "accept": 6, "close": 5, "reopen": 3, "transfer": 4, "give_back": 3,
    "note": 4, "post": 5, "rename": 2, "reserve": 4, "crash": 3, "kill": 2, "pause": 4, "history": 3,
}  # fmt: skip

Step = tuple[str, int, int, int]


class PlantedError(Exception):
    """A crash that the session planned."""


@attrs.define(eq=False)
class Due:
    """The events that a session must have got by the end of the step."""

    main: list[Json] = attrs.Factory(list)
    answers: list[Json] = attrs.Factory(list)
    presence: list[Json] = attrs.Factory(list)
    typing: list[Json] = attrs.Factory(list)


@attrs.define(eq=False)
class Picture:
    """The state that a console derives from its events."""

    operators: dict[int, Json] = attrs.Factory(dict)
    chats: dict[str, Json] = attrs.Factory(dict)
    unread: int | None = None


class Session:
    """Runs one random session. `run` raises at the first difference and names the step."""

    def __init__(self, chat_driver: VirtualTimeChat, model: Model, crash: Callable[[type, str, int], None]) -> None:
        self.chat_driver, self.model, self._crash = chat_driver, model, crash
        self.tabs: list[ClientSession] = []
        self.due: defaultdict[ClientSession, Due] = defaultdict(Due)
        self.pictures: dict[ClientSession, Picture] = {}
        self.ids: dict[int, tuple[str, int]] = {}
        self.places: dict[tuple[str, int], int] = {}
        self.lenient = False
        # Typing that is told to another node is merged, and each node ends it by itself.
        self.several = len(chat_driver.nodes) > 1
        self.forgetful: set[UUID] = set()
        self.counter = 0

    async def run(self, steps: list[Step]) -> None:
        for who, sources in SOURCES.items():
            await self._record(who, f"{who[0]} {who[1]}", sources)
        for owner, source in zip(VISITORS, ("lk", "shop", "lk"), strict=True):
            await self._reserve(owner, source)
        for number, step in enumerate(steps):
            try:
                self.lenient = False
                await getattr(self, f"step_{step[0]}")(*step[1:])
                await self._pass(0.37)
                await self._compare()
            except BaseException as error:
                error.add_note(f"step {number}: {step}; before it: {steps[max(0, number - 5) : number]}")
                raise
        with trio.fail_after(60):
            await self.chat_driver.drain()
        assert all(tab.in_flight == 0 for tab in self.tabs)

    # People and chats

    def user(self, who: Person) -> User:
        return User(id=who[1], role=Role(who[0]), firstname=self.model.people[who]["firstname"])

    async def _record(self, who: Person, name: str, sources: frozenset[str]) -> None:
        user = User(id=who[1], role=Role(who[0]), firstname=name)
        await self.chat_driver.next_chats().people.record(RecordPerson(user, frozenset({"firstname"}), sources))
        self.model.person(who, name, sources)

    async def _reserve(self, owner: Person, source: str) -> None:
        known = self.model.unclosed(source, owner)
        state, created = await self.chat_driver.next_chats().reserve_chat(source, self.user(owner))
        assert created is not bool(known)
        if created:
            assert state.uuid not in self.model.chats
            self.model.reserve(state.uuid, source, owner)
        else:
            assert state.uuid in known

    def chat(self, pick: int) -> Chat:
        return list(self.model.chats.values())[pick % len(self.model.chats)]

    def operator(self, chat: Chat, pick: int) -> Person:
        theirs = [who for who in OPERATORS if chat.source in SOURCES[who]]
        return theirs[pick % len(theirs)]

    def party(self, chat: Chat, pick: int) -> Person:
        return chat.owner if pick % 2 else self.operator(chat, pick // 2)

    def rooms(self) -> list[ClientSession]:
        return [tab for tab in self.tabs if tab.chat is not None]

    def room_tab(self, pick: int) -> ClientSession | None:
        rooms = self.rooms()
        return rooms[pick % len(rooms)] if rooms else None

    def consoles(self, source: str) -> list[ClientSession]:
        return [tab for tab in self.tabs if source in tab.sources]

    def text(self) -> str:
        self.counter += 1
        return f"text {self.counter}"

    # Expected events

    def tell(self, commit: Commit) -> None:
        chat = self.model.chats[commit.chat]
        for tab in self.rooms():
            if tab.chat == commit.chat:
                events = self.model.room_events(commit, person(tab), tab.profile is Profile.EXTENDED)
                self.due[tab].main += [nameless(each) if each["type"] == "message_updated" else each for each in events]
        for tab in self.consoles(chat.source):
            self.due[tab].main += self.model.feed_events(commit)

    def tell_typing(self, chat: Chat, who: Person, passed: list[tuple[str, bool]]) -> None:
        for text, stopped in passed:
            data = {"text": text, "stopped": stopped, "chat_id": str(chat.uuid), "user": who}
            for tab in self.consoles(chat.source) if chat.listed else ():
                self.due[tab].typing.append({"type": "typing_updated", "data": data})
            for tab in self.rooms():
                if tab.chat == chat.uuid and tab.profile is Profile.EXTENDED and person(tab)[0] != who[0]:
                    self.due[tab].typing.append({"type": "typing_updated", "data": {**data, "text": ""}})

    def tell_presence(self, chat: Chat, who: Person, kind: str) -> None:
        for tab in self.rooms():
            if tab.chat == chat.uuid:
                self.due[tab].presence.append({"type": kind, "who": who})

    def answer(self, tab: ClientSession, answer: Answer, text: str | None, key: str | None = None) -> None:
        """Expect the answer for the sending socket only: a refusal or a repeat."""
        extended = tab.profile is Profile.EXTENDED
        if isinstance(answer, Commit):
            self.tell(answer)
        elif isinstance(answer, Repeat):
            assert tab.chat is not None
            chat = self.model.chats[tab.chat]
            self.due[tab].answers.append(self.model.added(chat, chat.messages[answer.index], person(tab)))
        elif isinstance(answer, Refusal) and text is not None:
            self.due[tab].answers.append({"code": answer.code, "text": text, "client_id": key})
        elif isinstance(answer, Refusal) and extended:
            self.due[tab].answers.append({"code": answer.code})

    # Steps: each takes three numbers, with which it picks people, chats and messages

    def _send(self, tab: ClientSession, text: str, key: str | None) -> None:
        assert tab.chat is not None
        chat, who, now = self.model.chats[tab.chat], person(tab), trio.current_time()
        key = key if tab.profile is Profile.EXTENDED else None
        tab.say("send_message", text=text, attachments=[], **({} if key is None else {"client_id": key}))
        self.tell_typing(chat, who, self.model.stop_typing(chat, who, now))
        self.answer(tab, self.model.send(chat, who, text, now, key), text, key)

    async def step_send(self, a: int, b: int, c: int) -> None:
        tab = self.room_tab(a)
        if tab is not None:
            key = f"k{c % 40}" if c % 3 else None
            # Keys and texts repeat, so that some repeats have the same body and some another.
            self._send(tab, f"text {c % 40} {b % 4 == 0}" if key is not None else self.text(), key)

    async def step_burst(self, a: int, b: int, c: int) -> None:
        rng, tab = Random(b), self.room_tab(a)
        tabs = [each for each in self.rooms() if tab is not None and each.chat == tab.chat]
        for _ in range(2 + c % 6 if tabs else 0):
            each = rng.choice(tabs)
            if rng.random() < 0.3:
                self._mark(each, rng.randrange(1_000), rng.random() < 0.5)
            else:
                self._send(each, self.text(), rng.choice([None, f"k{rng.randrange(40)}"]))
            if self.several:
                # The order of what two nodes commit at once is theirs.
                await self.chat_driver.settle()

    async def step_bad(self, a: int, b: int, c: int) -> None:
        tab = self.room_tab(a)
        if tab is None:
            return
        assert tab.chat is not None
        chat, now = self.model.chats[tab.chat], trio.current_time()
        match b % 7:
            case 0 | 1 | 2 as which:
                text, count = ("", 0) if which == 0 else ("x" * 51, 0) if which == 1 else ("files", 11)
                files = [uuid4() for _ in range(count)]
                tab.say("send_message", text=text, attachments=list(map(str, files)))
                self.answer(tab, self.model.send(chat, person(tab), text, now, attachments=files), text)
            case 3:
                key = f"k{c % 40}" if c % 2 and tab.profile is Profile.EXTENDED else None
                text, file = f"text {c % 40} True", uuid4()
                more = {} if key is None else {"client_id": key}
                tab.say("send_message", text=text, attachments=[str(file)], **more)
                self.tell_typing(chat, person(tab), self.model.stop_typing(chat, person(tab), now))
                self.answer(tab, self.model.send(chat, person(tab), text, now, key, attachments=[file]), text, key)
            case 4:
                tab.say("send_message", text=7)
                self.due[tab].answers.append({"code": "malformed", "text": "", "client_id": None})
            case 5:
                tab.say("dance")
                self.answer(tab, Refusal("unknown_type"), None)
            case _:
                tab.raw("{")
                self.answer(tab, Refusal("malformed"), None)

    def _mark(self, tab: ClientSession, pick: int, read: bool) -> None:
        assert tab.chat is not None
        chat = self.model.chats[tab.chat]
        index: int | None = None
        known = [index for index in range(len(chat.messages)) if (str(chat.uuid), index) in self.places]
        if not known or pick % 13 == 0:
            foreign = [id_ for id_, (uuid, _) in self.ids.items() if uuid != str(chat.uuid)]
            message_id = foreign[pick % len(foreign)] if foreign and pick % 2 else 9_000_000_000
        else:
            index = known[-1 - pick % min(len(known), 6)]
            message_id = self.places[str(chat.uuid), index]
        tab.say("mark_message_read" if read else "mark_message_delivered", message_id=message_id)
        self.answer(tab, self.model.mark(chat, person(tab), index, read), None)

    async def step_mark(self, a: int, b: int, c: int) -> None:
        tab = self.room_tab(a)
        if tab is not None:
            self._mark(tab, b, bool(c % 2))

    async def step_typing(self, a: int, b: int, c: int) -> None:
        tab = self.room_tab(a)
        for number in range(1 + b % 3 if tab is not None else 0):
            assert tab is not None
            assert tab.chat is not None
            chat, stopped, text = self.model.chats[tab.chat], (c >> number) % 3 == 0, self.text()
            tab.say("update_typing", text=text, stopped=stopped)
            now = trio.current_time()
            self.tell_typing(chat, person(tab), self.model.type(chat, person(tab), text, stopped, now))

    async def _join(self, chat: Chat, who: Person, profile: Profile, after: int | None) -> None:
        if len(self.rooms()) >= MOST_TABS:
            return
        if not chat.sockets or self.several:
            # A room that slept has no messages in memory, so changed ones are read from storage as they are then.
            self.forgetful.add(chat.uuid)
        if self.model.arrive(chat, who):
            self.tell_presence(chat, who, "user_connected")
        tab = await self.chat_driver.join(chat.uuid, self.user(who), profile, after)
        self.tabs.append(tab)
        self.due[tab].presence += [{"type": "user_connected", "who": each} for each in chat.sockets]
        if after is not None and profile is Profile.EXTENDED:
            self.due[tab].main += map(nameless, self.model.resume(chat, who, after))

    async def step_join(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        await self._join(chat, self.party(chat, b), Profile.STRICT if c % 2 else Profile.EXTENDED, None)

    async def step_resume(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        after = c % (len(chat.messages) + 1) - 1 if c % 4 else -1
        await self._join(chat, self.party(chat, b), Profile.STRICT if c % 11 == 0 else Profile.EXTENDED, after)

    async def step_leave(self, a: int, b: int, c: int) -> None:
        tab = self.room_tab(a)
        if tab is None:
            return
        assert tab.chat is not None
        chat, who, now = self.model.chats[tab.chat], person(tab), trio.current_time()
        await self._gone(tab)
        self.model.depart(chat, who, now)
        if who in chat.gone_at:
            self.tell_typing(chat, who, self.model.stop_typing(chat, who, now))

    async def _gone(self, tab: ClientSession) -> None:
        await self.chat_driver.leave(tab)
        self.tabs.remove(tab)
        self.due.pop(tab, None)
        self.pictures.pop(tab, None)

    async def step_console(self, a: int, b: int, c: int) -> None:
        if len(self.pictures) >= MOST_CONSOLES:
            return
        who = OPERATORS[a % len(OPERATORS)]
        theirs = sorted(SOURCES[who])
        sources = SOURCES[who] if b % 3 else frozenset({theirs[b % len(theirs)]})
        before = [self.model.operator_wire(each) for each in self.model.operators(sources)]
        tab = await self.chat_driver.console(self.user(who), Profile.STRICT if c % 2 else Profile.EXTENDED, sources)
        chats = [chat for chat in self.model.chats.values() if chat.active and chat.source in sources]
        head = tab.frames[: len(before) + 1 + len(chats)]
        assert [each["type"] for each in head] == (
            ["operator_updated"] * len(before) + ["global_updated"] + ["chat_updated"] * len(chats)
        )
        assert [each["data"] for each in head[: len(before)]] == before
        shown = {each["data"]["chat"]["uuid"]: each["data"]["chat"] for each in head[len(before) + 1 :]}
        assert shown == {str(chat.uuid): self.model.chat_wire(chat) for chat in chats}
        self.pictures[tab] = Picture()
        self._look(self.pictures[tab], head)
        del tab.frames[: len(head)]
        self.tabs.append(tab)
        self.model.open_console(who)

    async def step_leave_console(self, a: int, b: int, c: int) -> None:
        if self.pictures:
            tab = list(self.pictures)[a % len(self.pictures)]
            now = trio.current_time()
            await self._gone(tab)
            self.model.close_console(person(tab), now)

    async def _perform(self, operation: ChatOperation, answer: Answer) -> None:
        code = None
        try:
            await self.chat_driver.next_chats().perform(operation)
        except ChatRefused as error:
            code = error.code
        assert code == (answer.code if isinstance(answer, Refusal) else None), answer
        if isinstance(answer, Commit):
            self.tell(answer)
            chat = self.model.chats[answer.chat]
            if answer.chat_changed and chat.stage == "closed":
                for who in chat.typing:
                    self.tell_typing(chat, who, self.model.stop_typing(chat, who, trio.current_time()))

    async def step_accept(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        who = self.operator(chat, b)
        await self._perform(AcceptChat(chat.uuid, self.user(who)), self.model.accept(chat, who))

    async def step_close(self, a: int, b: int, c: int) -> None:
        chat, now = self.chat(a), trio.current_time()
        who = self.party(chat, b)
        await self._perform(CloseChat(chat.uuid, self.user(who)), self.model.close(chat, who, now))

    async def step_reopen(self, a: int, b: int, c: int) -> None:
        closed = [chat for chat in self.model.chats.values() if chat.stage == "closed"]
        chat = closed[a % len(closed)] if closed and c % 5 else self.chat(a)
        who = self.party(chat, b)
        now = trio.current_time()
        await self._perform(ReopenChat(chat.uuid, self.user(who)), self.model.reopen(chat, who, now))

    async def step_transfer(self, a: int, b: int, c: int) -> None:
        chat, to = self.chat(a), [*OPERATORS, STRANGER][c % 4]
        who = self.operator(chat, b)
        now = trio.current_time()
        await self._perform(TransferChat(chat.uuid, self.user(who), to[1]), self.model.transfer(chat, who, to, now))

    async def step_give_back(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        who = chat.operator if chat.operator is not None and c % 3 else self.operator(chat, b)
        now = trio.current_time()
        await self._perform(ReturnChat(chat.uuid, self.user(who)), self.model.give_back(chat, who, now))

    async def step_note(self, a: int, b: int, c: int) -> None:
        chat, role, text = self.chat(a), ("user", "operator")[c % 2], self.text()
        who, now = self.operator(chat, b), trio.current_time()
        note = AddMessage(chat.uuid, self.user(who), text, type=MessageType.SYSTEM, type_role=Role(role))
        await self._perform(note, self.model.send(chat, who, text, now, note_for=role))

    async def step_post(self, a: int, b: int, c: int) -> None:
        chat, text, now = self.chat(a), f"text {c % 40} True", trio.current_time()
        who, key = self.party(chat, b), f"k{c % 40}"
        self.tell_typing(chat, who, self.model.stop_typing(chat, who, now))
        post = AddMessage(chat.uuid, self.user(who), text, client_id=key)
        await self._perform(post, self.model.send(chat, who, text, now, key))

    async def step_rename(self, a: int, b: int, c: int) -> None:
        who, name = list(SOURCES)[a % len(SOURCES)], f"name {b % 10}"
        changed = self.model.people[who]["firstname"] != name
        await self._record(who, name, SOURCES[who])
        if changed:
            for chat in self.model.chats.values():
                if who in chat.sockets:
                    self.tell_presence(chat, who, "user_connected")
            for commit in self.model.renamed(who):
                self.tell(commit)

    async def step_reserve(self, a: int, b: int, c: int) -> None:
        if len(self.model.chats) < MOST_CHATS:
            await self._reserve(VISITORS[a % len(VISITORS)], ("lk", "shop")[b % 2])

    async def step_crash(self, a: int, b: int, c: int) -> None:
        """Crash between accepting and broadcasting; afterwards every session has everything once, in order."""
        rng, tab = Random(b), self.room_tab(a)
        if tab is None:
            return
        assert tab.chat is not None
        chat = self.model.chats[tab.chat]
        # On one node: what waits there for a restart would be overtaken by the other node.
        tabs = [each for each in self.rooms() if (each.chat, each.node) == (tab.chat, tab.node)]
        self.lenient = True
        owner, name = CRASHES[c % len(CRASHES)]
        self._crash(owner, name, 1 + b % 3)
        said: list[tuple[ClientSession, str]] = []
        for _ in range(6):
            each, text = rng.choice(tabs), self.text()
            each.say("send_message", text=text, attachments=[])
            said.append((each, text))
            if rng.random() < 0.5:
                await self.chat_driver.settle()
        now = trio.current_time()
        await self.chat_driver.settle()
        for each, text in said:
            refused = [frame for frame in each.frames if frame["type"] == "message_not_added"]
            if any(frame["data"]["text"] == text and frame["data"]["code"] == "overloaded" for frame in refused):
                self.due[each].answers.append({"code": "overloaded", "text": text, "client_id": None})
            else:
                self.tell_typing(chat, person(each), self.model.stop_typing(chat, person(each), now))
                self.answer(each, self.model.send(chat, person(each), text, now), text)
        for who in chat.gone_at:
            chat.gone_at[who] = now
        await self._pass(14)
        self._crash(owner, name, 0)
        # The room restarts after a delay, so a waiting message is stored a little later.
        page = await self.chat_driver.next_chats().chat_reader.after(chat.uuid, Role.OPERATOR, after=-1, limit=10_000)
        assert page is not None
        for message in page.messages:
            assert 0 <= message.time - chat.messages[message.index]["time"] <= 2
            chat.messages[message.index]["time"] = message.time

    async def step_kill(self, a: int, b: int, c: int) -> None:
        tab = self.room_tab(a)
        if tab is None:
            return
        assert tab.chat is not None
        await self._pass(7)
        self.chat_driver.kill_room(tab.chat)
        await self.chat_driver.settle()
        self._send(tab, self.text(), None)

    async def step_pause(self, a: int, b: int, c: int) -> None:
        await self._pass((1.0, 3.0, 7.0, 40.0, 150.0)[a % 5])

    async def step_history(self, a: int, b: int, c: int) -> None:
        chat, limit = self.chat(a), 1 + b % 60
        chat_reader = self.chat_driver.next_chats().chat_reader
        for role in ("user", "operator"):
            whole = self.model.history(chat, role)
            page = await chat_reader.newest(chat.uuid, Role(role), before=None, limit=limit)
            assert page is not None
            assert page.has_more == (len(whole) > limit)
            assert [message.index for message in page.messages] == [each["message_index"] for each in whole[-limit:]]
        listed = await chat_reader.chats(ChatFilter(limit=100))
        assert {each.uuid for each in listed.chats} == {each.uuid for each in self.model.chats.values() if each.listed}

    # Time and comparison

    async def _pass(self, seconds: float) -> None:
        """Let time pass, and stop at each moment at which a timer of the model is due."""
        target = trio.current_time() + seconds
        while True:
            await self.chat_driver.settle()
            now = trio.current_time()
            self._happen(now)
            ahead = [moment + 0.01 for moment in self.model.moments() if moment + 0.01 > now]
            # A timer due in a moment would send events while this step is compared.
            late = max([moment + 0.15 for moment in ahead if moment < target + 0.15], default=target)
            target = max(target, late)
            if now >= target:
                return
            self.chat_driver.clock.jump(min(min(ahead, default=target), now + 0.11, target) - now)

    def _happen(self, now: float) -> None:
        model = self.model
        for chat in model.chats.values():
            for who, typing in chat.typing.items():
                self.tell_typing(chat, who, model.typing_due(typing, now))
                if now >= typing.last + 6.0:
                    self.tell_typing(chat, who, model.stop_typing(chat, who, now))
                    # A user who starts typing again after a silence is sent at once.
                    typing.sent_at = -1.0
            for who in [who for who, at in chat.gone_at.items() if now >= at + 5.0]:
                model.lapse(chat, who)
                self.tell_presence(chat, who, "user_disconnected")
        for who in [who for who, at in model.consoles_gone_at.items() if now >= at + 30.0]:
            for commit in model.go_offline(who, now):
                self.tell(commit)

    async def _compare(self) -> None:
        for tab in self.tabs:
            assert tab.closed is None, tab.closed
            due, frames = self.due[tab], tab.take()
            if tab.chat is None:
                self._compare_console(tab, due, frames)
            else:
                self._compare_room(tab, due, frames)
        self.due.clear()
        for chat in self.model.chats.values():
            state = await self.chat_driver.next_chats().chat_reader.chat(chat.uuid)
            assert state is not None
            assert json.loads(encode_entity(state.wire())) == self.model.chat_wire(chat)
            assert (state.stage.value, state.next_index) == (chat.stage, len(chat.messages))
            assert [state.visitor_delivered, state.visitor_read] == chat.marks["user"]
            assert [state.operators_delivered, state.operators_read] == chat.marks["operator"]

    def _compare_room(self, tab: ClientSession, due: Due, frames: list[Json]) -> None:
        presence = [{"type": each["type"], "who": who_of(each["data"]["user"])} for each in frames if is_presence(each)]
        # After a crash all grace periods start again, so they end at the same time. A room names its own people first.
        order = (lambda each: sorted(each, key=str)) if self.lenient or self.several else list
        assert order(presence) == order(due.presence), (presence, due.presence)
        if not self.several:
            assert [plain_typing(each) for each in frames if each["type"] == "typing_updated"] == due.typing
        rest = [self._known(each) for each in frames if not is_presence(each) and each["type"] != "typing_updated"]
        answers = [answer_of(each) for each in rest if each["type"] in ("message_not_added", "error")]
        main = [each for each in rest if each["type"] not in ("message_not_added", "error")]
        repeats = [each for each in due.answers if "type" in each]
        expected_answers = [each for each in due.answers if "type" not in each]
        # What a crash refuses overtakes the refusals of a commit.
        assert order(answers) == order(expected_answers), (answers, expected_answers)
        if self.lenient:
            assert_same_essence(main, due.main)
            return
        if tab.profile is Profile.STRICT and tab.chat in self.forgetful and outcome(main) == outcome(due.main):
            return
        expected, left = list(due.main), list[Json]()
        for each in main:
            if expected and expected[0] in (each, nameless(each)):
                expected.pop(0)
            else:
                left.append(each)
        assert not expected, (
            f"missing: {expected[0]}\nof {list(map(place, expected))} in {list(map(place, main))}; {left}"
        )
        assert [place(each) for each in left] == [place(each) for each in repeats], left

    def _compare_console(self, tab: ClientSession, due: Due, frames: list[Json]) -> None:
        if not self.several:
            assert [plain_typing(each) for each in frames if each["type"] == "typing_updated"] == due.typing
        for uuid in self.model.chats:
            theirs = [self._known(each) for each in frames if chat_of(each) == str(uuid)]
            expected = [each for each in due.main if chat_of(each) == str(uuid)]
            if self.lenient:
                assert_same_essence(theirs, expected)
            else:
                assert theirs == expected
        picture = self.pictures[tab]
        self._look(picture, frames)
        operators = {who[1]: self.model.operator_wire(who) for who in self.model.operators(tab.sources)}
        assert picture.operators == operators
        assert picture.unread == self.model.unread(tab.sources)
        listed = [chat for chat in self.model.chats.values() if chat.active and chat.source in tab.sources]
        expected_chats = {str(chat.uuid): (chat.stage, chat.operator) for chat in listed}
        shown = {
            uuid: (chat["status"], chat["operator_user"] and who_of(chat["operator_user"]))
            for uuid, chat in picture.chats.items()
            if chat["status"] != "closed"
        }
        assert shown == expected_chats

    @staticmethod
    def _look(picture: Picture, frames: list[Json]) -> None:
        for frame in frames:
            data = frame["data"]
            if frame["type"] == "operator_updated":
                picture.operators[data["user"]["id"]] = data
            elif frame["type"] == "global_updated":
                picture.unread = data["unread_chats"]
            elif frame["type"] == "chat_updated":
                picture.chats[data["chat"]["uuid"]] = data["chat"]

    def _known(self, frame: Json) -> Json:
        """The frame without its message's id, after checking that the id belongs to that message only."""
        message = frame["data"].get("message")
        if message is None:
            return frame
        message = dict(message)
        id_, at = message.pop("id"), (message["chat"]["uuid"], message["message_index"])
        assert self.ids.setdefault(id_, at) == at
        assert self.places.setdefault(at, id_) == id_
        return {"type": frame["type"], "data": {**frame["data"], "message": message}}


def nameless(value: Any) -> Any:
    """The frame with (role, id) for each user: replays and status changes may show older profiles."""
    if isinstance(value, dict):
        return who_of(value) if "firstname" in value else {name: nameless(each) for name, each in value.items()}
    return value


def person(tab: ClientSession) -> Person:
    return tab.user.role.value, tab.user.id


def who_of(user: Json) -> Person:
    return user["role"], user["id"]


def is_presence(frame: Json) -> bool:
    return frame["type"] in ("user_connected", "user_disconnected")


def plain_typing(frame: Json) -> Json:
    return {**frame, "data": {**frame["data"], "user": who_of(frame["data"]["user"])}}


def answer_of(frame: Json) -> Json:
    data = frame["data"]
    if frame["type"] == "error":
        return {"code": data["code"]}
    return {name: data[name] for name in ("code", "text", "client_id")}


def place(frame: Json) -> tuple[Any, ...]:
    message = frame["data"].get("message", {})
    return frame["type"], message.get("message_index"), message.get("text"), frame["data"].get("client_id")


def chat_of(frame: Json) -> str | None:
    """Whether the event is part of a chat's order of events."""
    if frame["type"] == "chat_updated":
        return str(frame["data"]["chat"]["uuid"])
    return str(frame["data"]["message"]["chat"]["uuid"]) if frame["type"] == "message_added" else None


def assert_same_essence(frames: list[Json], expected: list[Json]) -> None:
    """What must be the same after a crash: each message once and in order, and the final chat."""
    added, chats = [
        [[each for each in them if each["type"] == kind] for them in (frames, expected)]
        for kind in ("message_added", "chat_updated")
    ]
    assert list(map(place, added[0])) == list(map(place, added[1]))
    if chats[1]:
        assert chats[0][-1] == chats[1][-1]


def outcome(frames: list[Json]) -> tuple[object, ...]:
    """The final state of a strict socket: each message once and in order, and its status."""
    messages = [each["data"]["message"] for each in frames if each["type"] != "chat_updated"]
    added = [place(each) for each in frames if each["type"] == "message_added"]
    return added, {message["message_index"]: message["status"] for message in messages}


@contextmanager
def saboteur() -> Iterator[Callable[[type, str, int], None]]:
    """Yields `crash(owner, name, nth)`, which makes the nth next call of `owner.name` raise once; 0 for none."""
    armed: dict[tuple[type, str], int] = {}
    with pytest.MonkeyPatch.context() as patch:
        for place_ in CRASHES:
            patch.setattr(*place_, _sabotaged(place_, getattr(*place_), armed))

        def crash(owner: type, name: str, nth: int) -> None:
            armed[owner, name] = nth

        yield crash


def _sabotaged(
    place_: tuple[type, str], whole: Callable[..., Any], armed: dict[tuple[type, str], int]
) -> Callable[..., Any]:
    def planted(*args: Any, **kwargs: Any) -> Any:
        left = armed.get(place_, 0)
        if left:
            armed[place_] = left - 1
            if left == 1:
                raise PlantedError
        return whole(*args, **kwargs)

    return planted

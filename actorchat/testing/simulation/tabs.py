"""A person's browser tabs: room sockets that are held open with the project's client library."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING
from uuid import UUID

import attrs
import outcome
import trio

from actorchat.client import (
    ClientError,
    ConnectionEnded,
    NoSuchChat,
    NotAdded,
    Undelivered,
    open_room,
)
from actorchat.client.delivery import Delivery
from actorchat.client.room import RoomConnection
from actorchat.protocol import ErrorEvent, Event, Message, MessageAdded, MessageType
from actorchat.protocol.codec import UnknownType
from actorchat.testing.simulation.sockets import dial

if TYPE_CHECKING:
    from actorchat.testing.simulation.people import Person

__all__ = ["Sent", "Tab", "Tabs"]

_RETRYABLE = frozenset({"storage_unavailable", "overloaded", "draining"})


@attrs.define(eq=False)
class Tab:
    """One open tab.

    `last` is the index of the newest message it received, `marked` the highest marks it sent. `announced` is the index
    of the last message that was broadcast before the tab was opened.
    """

    chat: str
    announced: int
    last: int | None = None
    room: RoomConnection | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    stalled_until: float = 0.0
    seen: list[tuple[int, int]] = attrs.field(factory=list)
    errors: set[str] = attrs.field(factory=set)
    marked: dict[str, int] = attrs.field(factory=lambda: {"delivered": -1, "read": -1})


@attrs.frozen(eq=False)
class Sent:
    tab: Tab
    delivery: Delivery

    @property
    def chat(self) -> str:
        return self.tab.chat

    def outcome(self) -> Message | NotAdded | Undelivered | None:
        result = self.delivery._result
        if result is None:
            return None
        if isinstance(result, outcome.Value):
            return result.value
        error = result.error
        assert isinstance(error, NotAdded | Undelivered)  # noqa: S101 - what a delivery settles with
        return error


class Tabs:
    """The tabs of one person, at most three at a time."""

    def __init__(self, person: Person) -> None:
        self.deliveries: list[Sent] = []
        self._person = person
        self._world = person.world
        self._open: list[Tab] = []
        self._opened = 0

    @property
    def handlers(self) -> Mapping[str, Callable[[int, int, int], Awaitable[None]]]:
        return {
            "tab": self._open_tab,
            "leave": self._leave,
            "send": self._send,
            "burst": self._burst,
            "again": self._again,
            "twice": self._twice,
            "mark": self._mark,
            "typing": self._type,
            "stall": self._stall,
        }

    def client_random(self) -> Random:
        """Return the random generator of the next client."""
        self._opened += 1
        return self._world.random(f"client/{self._person.name}/{self._opened}")

    def is_on_its_way(self, key: str) -> bool:
        """Whether the outcome of a message with that key is unknown: no program sends the key again before that."""
        return any(sent.delivery.client_id == key and not sent.delivery.settled for sent in self.deliveries)

    def _pick(self, pick: int) -> Tab | None:
        live = [tab for tab in self._open if tab.room is not None]
        return live[pick % len(live)] if live else None

    async def _open_tab(self, a: int, b: int, c: int) -> None:
        person = self._person
        chat = person.chat(a)
        if chat is None or len(self._open) >= 3:
            return
        after = (None, -1, person.known[chat])[b % 3]
        tab = Tab(chat, self._world.truth.chats[chat].announced, after)
        self._open.append(tab)
        person.nursery.start_soon(self._hold, tab, after, (1, 8, 256)[c % 3])

    async def _hold(self, tab: Tab, after: int | None, inbox: int) -> None:
        person, world = self._person, self._world
        used = person.token_use()
        try:
            with tab.scope:
                async with open_room(
                    world.url,
                    tab.chat,
                    token=person.current,
                    after=after,
                    inbox=inbox,
                    outbox=16,
                    random=self.client_random(),
                    dial=lambda host, port, tls: dial(world.network, host, port, tls),
                ) as room:
                    tab.room = room
                    async for event in room:
                        self._heard(tab, event)
                        if tab.stalled_until > trio.current_time():
                            await trio.sleep_until(tab.stalled_until)
        except ConnectionEnded as error:
            world.log(person.name, "tab ended", error.code)
            deleted = isinstance(error, NoSuchChat) and tab.chat in world.truth.expired
            if not deleted and not person.judge_end(error, used):
                world.fail("client", f"{person.name}: the tab ended with {error!r}")
        finally:
            tab.room = None
            self._open.remove(tab)

    def _heard(self, tab: Tab, event: Event | UnknownType) -> None:
        if isinstance(event, ErrorEvent):
            tab.errors.add(event.code)
        if not isinstance(event, MessageAdded):
            return
        person, world = self._person, self._world
        message, index = event.message, event.message.message_index
        chat, role = world.truth.chat(tab.chat), person.who[0]
        assert chat is not None  # noqa: S101 - tabs are opened in chats that exist
        if tab.last is None:
            # If the first socket is lost before any event, the room replays the whole chat.
            replayed = index == chat.next_visible(role, -1)
            if event.client_id in person.again and index <= tab.announced and not replayed:
                what = f"{person.name}: the repeated {event.client_id} of message {index} comes first"
                world.fail("client-repeat-first", what)
                return
        else:
            expected = chat.next_visible(role, tab.last)
            what = f"{person.name}: message {index} after {tab.last}, next is {expected}"
            world.check(index == expected, "client-story", what)
        tab.last = index
        if message.type is MessageType.STANDARD and message.type_role is not person.role:
            tab.seen.append((message.id, index))
        person.known[tab.chat] = max(person.known[tab.chat], index)

    async def _leave(self, a: int, b: int, c: int) -> None:
        tab = self._pick(a)
        if tab is None or tab.room is None:
            return
        if b % 2:
            tab.scope.cancel()
        else:
            await tab.room.aclose()

    async def _hand_over(self, tab: Tab, text: str, key: str | None, files: Sequence[UUID] = ()) -> None:
        if tab.room is None:
            return
        with trio.move_on_after(3.0):
            delivery = await tab.room.send(text, files, client_id=key)
            self._person.keys.append((tab.chat, key or delivery.client_id, text))
            self.deliveries.append(Sent(tab, delivery))

    async def _send(self, a: int, b: int, c: int) -> None:
        tab = self._pick(a)
        if tab is not None:
            files = self._person.files.pick(b, c) if c % 5 == 0 else ()
            try:
                await self._hand_over(tab, self._person.next_text(), None, files)
            except (ClientError, trio.ClosedResourceError):
                return

    async def _burst(self, a: int, b: int, c: int) -> None:
        for _ in range(2 + b % 5):
            await self._send(a, b, c)

    async def _again(self, a: int, b: int, c: int) -> None:
        """Send an earlier message again, as a restarted program does, or another text under the same key."""
        tab = self._pick(a)
        theirs = [] if tab is None else [each for each in self._person.keys if each[0] == tab.chat]
        if tab is None or not theirs:
            return
        _, key, text = theirs[-1 - b % min(len(theirs), 6)]
        if self.is_on_its_way(key):
            return
        try:
            await self._hand_over(tab, text if c % 4 else f"{text} or not", key)
            self._person.again.add(key)
        except (ClientError, trio.ClosedResourceError):
            return

    async def _twice(self, a: int, b: int, c: int) -> None:
        """Send the same message over two connections at once."""
        tab, person = self._pick(a), self._person
        raw = None if tab is None else person.raws.extended_in(tab.chat)
        if tab is None or raw is None:
            return
        text = person.next_text()
        key = f"{text}-twice"
        person.again.add(key)
        data = {"text": text, "attachments": [], "client_id": key}
        try:
            with trio.move_on_after(2):
                await raw.send_text(json.dumps({"type": "send_message", "data": data}))
            await self._hand_over(tab, text, key)
        except (ClientError, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _mark(self, a: int, b: int, c: int) -> None:
        tab = self._pick(a)
        if tab is None or tab.room is None or not tab.seen:
            return
        message_id, index = tab.seen[-1 - b % min(len(tab.seen), 4)]
        kind = "read" if c % 2 else "delivered"
        (tab.room.mark_read if c % 2 else tab.room.mark_delivered)(message_id)
        tab.marked[kind] = max(tab.marked[kind], index)

    async def _type(self, a: int, b: int, c: int) -> None:
        tab = self._pick(a)
        if tab is None or tab.room is None:
            return
        if b % 4:
            tab.room.update_typing(f"typing {b}")
        else:
            tab.room.stop_typing()

    async def _stall(self, a: int, b: int, c: int) -> None:
        """Read nothing for a while."""
        tab = self._pick(a)
        if tab is not None and not self._world.calm:
            tab.stalled_until = trio.current_time() + b / 20

    def at_rest(self) -> None:
        """Check that every open tab is live and has received everything, and that its marks are stored."""
        person, world = self._person, self._world
        for tab in self._open:
            if tab.room is None:
                continue
            chat, role = world.truth.chat(tab.chat), person.who[0]
            assert chat is not None  # noqa: S101 - as above
            if tab.last is not None:
                last = chat.last_visible(role)
                what = f"{person.name}: a tab has {tab.last} of {last}, {tab.room.state}"
                world.check(tab.last == last, "client-story", what)
            live = tab.room.state.value == "live"
            world.check(live, "client", f"{person.name}: a tab is {tab.room.state}: {tab.room.reason}")
            delivered, read = chat.model.marks[role]
            if read < tab.marked["read"] or delivered < tab.marked["delivered"]:
                kind = "marks-refused" if tab.errors & _RETRYABLE else "marks"
                world.fail(kind, f"{person.name}: marked {tab.marked}, stored {delivered}, {read}")

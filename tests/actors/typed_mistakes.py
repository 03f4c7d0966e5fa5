"""Mistakes that the types refuse. mypy is clean exactly if it reports each of them: an unused ignore is an error."""

from __future__ import annotations

from typing import assert_never, assert_type

import attrs

from actorchat.actors import Actor, Group, Overflow, Ref, Request, Restart, Virtual, open_system


@attrs.frozen
class Size(Request[int]):
    pass


@attrs.frozen
class Foreign(Request[str]):
    pass


@attrs.frozen
class Say:
    text: str


@attrs.frozen
class Gone:
    pass


Message = Size | Say | Gone


class Anchor:
    pass


class Room(Actor[Message]):
    def __init__(self, key: str, anchor: Anchor) -> None:
        self.key, self.anchor = key, anchor

    async def receive(self, message: Message) -> None:
        match message:
            case Size():
                self.reply(message, 3)
                self.reply(message, "three")  # type: ignore[misc] # the reply is an int
                later = self.defer(message)
                later.reply("three")  # type: ignore[arg-type] # as above
            case Say():
                self.reply(message, None)  # type: ignore[arg-type] # it is no request
                self.after(1.0, "tick", key=1)  # type: ignore[arg-type] # not one of its messages
                self.watch(self.ref, as_=lambda down: down)  # type: ignore[arg-type, return-value] # as above
            case _:
                assert_never(message)  # type: ignore[arg-type] # Gone is not handled


def close(key: str, anchor: Anchor, error: BaseException) -> None: ...


async def calls() -> None:
    async with open_system() as system:
        ref = system.spawn(lambda: Room("a", Anchor()), restart=Restart(max=3), overflow=Overflow.STOP)
        assert_type(ref, Ref[Message])
        assert_type(await ref.ask(Size(), timeout=1), int)
        narrow: Ref[Say] = ref
        await narrow.ask(Size())  # type: ignore[arg-type] # this address takes only what is said
        wide: Ref[Message] = narrow  # type: ignore[assignment] # as above
        await wide.ask(Foreign())  # type: ignore[arg-type] # not one of its messages
        await ref.ask(Say("hi"))  # type: ignore[arg-type] # nothing replies to it
        ref.tell(3)  # type: ignore[arg-type] # not one of its messages
        ref.signal(3)  # type: ignore[arg-type] # as above
        await ref.send(3)  # type: ignore[arg-type] # as above
        rooms = system.virtual(Room, anchor=lambda key: Anchor(), idle=300, on_give_up=close)
        assert_type(rooms, Virtual[str, Message, Anchor])
        assert_type(rooms.anchor("a"), Anchor)
        _ = rooms[3]  # type: ignore[index] # keys are strings
        system.virtual(Room)  # type: ignore[arg-type] # it needs an anchor
        group = Group[Message]()
        group.add(ref)
        group.add(narrow)  # type: ignore[arg-type] # it takes less than the group sends
        assert_type(system.find("a", Room), Ref[Message] | None)

"""Commits operations to a store that is checked, with the people and chats of the checks."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from typing import Final
from uuid import UUID

import attrs

from actorchat.chat.model import (
    ANONYMOUS_IDS,
    ChatState,
    Identity,
    PersonRecord,
    Policy,
    StoredAttachment,
    Upload,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    CloseChat,
    Decision,
    EndLeaving,
    ExpireChat,
    HandOver,
    MarkMessage,
    Operation,
    RecordPerson,
    RefreshPeople,
    Refused,
    ReleaseChat,
    ReopenChat,
    ReplaceTag,
    ReserveChat,
    ReturnChat,
    SetOnline,
    SetTags,
    SweepChat,
    TransferChat,
)
from actorchat.protocol import AttachmentType, MessageType, Role, User
from actorchat.storage.store import Batch, DecisionAndCounters, Store

__all__ = [
    "ANN",
    "BOB",
    "CHAT",
    "EVE",
    "FAY",
    "GUEST",
    "NOW",
    "RECORDS",
    "SHOP",
    "OpenStore",
    "StoreWriter",
    "new_upload",
    "random_operations",
    "refuses",
    "state_of",
]

OpenStore = Callable[[Policy], AbstractContextManager[Store]]
"""Opens one store. A durable store that is opened again finds what it stored."""

ANN: Final = User(1, Role.USER, firstname="Ann")
BOB: Final = User(2, Role.USER, firstname="Bob")
GUEST: Final = User(ANONYMOUS_IDS + 7, Role.USER)
# Operators and visitors share ids on purpose: an identity is a role and an id.
EVE: Final = User(1, Role.OPERATOR, firstname="Eve")
FAY: Final = User(2, Role.OPERATOR, firstname="Fay")
SHOP: Final = "shop"
CHAT: Final = UUID(int=1)
NOW: Final = 1_700_000_000
RECORDS: Final = tuple(
    RecordPerson(user, frozenset(), frozenset({SHOP} if user.role is Role.OPERATOR else ()))
    for user in (ANN, BOB, EVE, FAY)
)


class StoreWriter:
    """Commits operations to a store under consecutive batch numbers."""

    def __init__(self, store: Store, writer: str = "check") -> None:
        self.store = store
        self._writer = writer
        self._numbers = count(1)

    def batch(self, *operations: Operation, now: float = NOW) -> list[DecisionAndCounters]:
        return self.store.commit(operations, Batch(self._writer, next(self._numbers), now))

    def one(self, operation: Operation, now: float = NOW) -> DecisionAndCounters:
        [decided] = self.batch(operation, now=now)
        return decided

    def decision(self, operation: Operation, now: float = NOW) -> Decision:
        return self.one(operation, now)[0]

    def changed(self, operation: Operation, now: float = NOW) -> Changed:
        decision, _ = self.one(operation, now)
        assert isinstance(decision, Changed), decision
        return decision

    def person(self, user: User) -> PersonRecord:
        record = self.store.person(Identity(user.role, user.id))
        assert record is not None
        return record

    def talk(self, *texts: str, chat: UUID = CHAT, author: User = ANN) -> list[int]:
        """Add messages of `author`, each in a batch of its own, and return their ids."""
        return [self.changed(AddMessage(chat, author, text)).messages[0].id for text in texts]


def state_of(writer: StoreWriter) -> ChatState:
    state = writer.store.chat(CHAT)
    assert state is not None
    return state


def refuses(writer: StoreWriter, operation: Operation, code: str, now: float = NOW) -> Refused:
    decision, _ = writer.one(operation, now)
    assert isinstance(decision, Refused), decision
    assert decision.code == code, decision
    return decision


def new_upload(number: int, uploader: User = ANN, created: int = NOW) -> Upload:
    file = StoredAttachment(UUID(int=number), AttachmentType.IMAGE, f"{number} я.png", "png", 5, 3)
    return Upload(file, Identity(uploader.role, uploader.id), SHOP, "image/png", created)


def random_operations(seed: int, number: int) -> Iterator[Operation]:
    """Yield `number` operations of two visitors and two operators on a few chats at the source "shop".

    Most of them are valid. The same seed gives the same operations.
    """
    chance = random.Random(seed)  # noqa: S311 - seeded, to be repeatable
    chats = [UUID(int=n) for n in range(1, 6)]
    visitors, operators = (ANN, BOB, GUEST), (EVE, FAY)
    for _ in range(number):
        chat, visitor, operator = chance.choice(chats), chance.choice(visitors), chance.choice(operators)
        either = chance.choice((visitor, operator))
        # An anonymous visitor is deleted with an unused chat, and no visitor may write in another's chat.
        author = ANN if either is GUEST else either
        key = f"k{chance.randrange(20)}"
        text = chance.choice(("hello", "there"))
        yield chance.choice(
            (
                ReserveChat(chat, SHOP, visitor),
                ReserveChat(chat, SHOP, visitor, chance.choice((None, Refused("rate_limited", "slowly", 1.0)))),
                ExpireChat(chat, NOW + chance.randrange(30), chance.random() < 0.3),
                AddMessage(chat, author, text, client_id=key),
                AddMessage(chat, author, text),
                AddMessage(chat, operator, text, type=MessageType.SYSTEM, type_role=Role.OPERATOR),
                MarkMessage(chat, either, chance.randrange(80), chance.random() < 0.5),
                AcceptChat(chat, operator),
                CloseChat(chat, author),
                ReopenChat(chat, author),
                TransferChat(chat, operator, chance.choice((EVE.id, FAY.id, 99))),
                ReturnChat(chat, operator),
                ReleaseChat(chat, operator.id),
                RecordPerson(
                    attrs.evolve(either, lastname=text),
                    frozenset({"lastname"}),
                    frozenset({chance.choice((SHOP, "mall"))}),
                    NOW + chance.randrange(600),
                    key,
                    chance.choice((None, NOW + chance.random())),
                ),
                SetOnline(operator.id, chance.random() < 0.5),
                EndLeaving(operator.id),
                SweepChat(chat),
                RefreshPeople(chat),
                SetTags(chat, chance.choice(((), ("a",), ("a", "b")))),
                ReplaceTag(chat, "a", chance.choice((None, "b", "c"))),
                HandOver(GUEST.id, chance.choice((ANN, BOB)), NOW + 1.0),
            )
        )

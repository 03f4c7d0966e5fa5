"""A sample chat with its users, and a recipient that records outcomes."""

from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from actorchat.chat.model import StoredMessage
from actorchat.chat.operations import AddMessage, Changed, Decision, Outcome, Refused, ReserveChat
from actorchat.chat.ports import ChatFilter
from actorchat.protocol import Role, User
from actorchat.storage.store import Store

ANN: Final = User(1, Role.USER, firstname="Ann")
EVE: Final = User(1, Role.OPERATOR, firstname="Eve")
CHAT: Final = UUID(int=1)
RESERVE: Final = ReserveChat(CHAT, "shop", ANN)
NOW: Final = 1_700_000_000


def say(text: str) -> AddMessage:
    return AddMessage(CHAT, ANN, text, client_id=text)


class OutcomeRecorder:
    """A recipient that records all outcomes, and calls `on_outcome` with each."""

    def __init__(self, on_outcome: Callable[[Outcome], object] = lambda outcome: None) -> None:
        self.outcomes: list[Outcome] = []
        self.calls = 0
        self._on_outcome = on_outcome

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        self.calls += 1
        for outcome in outcomes:
            self.outcomes.append(outcome)
            self._on_outcome(outcome)

    @property
    def decisions(self) -> list[Decision]:
        return [outcome.decision for outcome in self.outcomes]

    @property
    def codes(self) -> list[str | None]:
        return [decision.code if isinstance(decision, Refused) else None for decision in self.decisions]

    @property
    def stored_messages(self) -> list[StoredMessage]:
        return [message for one in self.decisions if isinstance(one, Changed) for message in one.messages]


def all_messages(store: Store) -> list[StoredMessage]:
    """All messages of all listed chats."""
    found: list[StoredMessage] = []
    for chat in store.chats(ChatFilter(limit=1_000)).chats:
        page = store.since(chat.uuid, rev=0, limit=100_000)
        assert page is not None
        found.extend(page.messages)
    return found

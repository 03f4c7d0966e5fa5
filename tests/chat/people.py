"""Sample users and a sample chat."""

from uuid import UUID

from actorchat.chat.model import ChatState, Stage
from actorchat.protocol import Role, User

ANNA = User(id=7, role=Role.USER, firstname="Anna")
BORIS = User(id=8, role=Role.USER, firstname="Boris")
OLGA = User(id=1, role=Role.OPERATOR, firstname="Olga")
PETR = User(id=2, role=Role.OPERATOR, firstname="Petr")

CHAT = UUID("d599cb9b-a451-4bb3-ac0c-1465b9a1c4de")


def chat(stage: Stage = Stage.RESERVED, operator: User | None = None) -> ChatState:
    """Anna's chat at the source `lk`."""
    return ChatState(CHAT, "lk", ANNA, stage, operator)

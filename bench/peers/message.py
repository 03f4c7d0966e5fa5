"""Turns a `send_message` into the `message_added` that every Python relay sends."""

from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

import orjson

USER = {"id": 4503599627370497, "role": "user", "avatar": "", "lastname": "", "firstname": "Visitor", "patronymic": ""}
OPERATOR = {"id": 1, "role": "operator", "avatar": "", "lastname": "", "firstname": "Operator", "patronymic": ""}
CHAT = {
    "uuid": str(UUID(int=0xD599CB9BA4514BB3AC0C1465B9A1C4DE)),
    "widget": {"source": "lk"},
    "status": "open",
    "owner_user": USER,
    "operator_user": OPERATOR,
}
_numbers = count()


def added(frame: bytes | str) -> bytes:
    """The `message_added` frame for a `send_message` frame."""
    return orjson.dumps({"type": "message_added", "data": answer(orjson.loads(frame)["data"]["text"])})


def answer(text: str) -> dict[str, Any]:
    """The data of a `message_added` with that text."""
    number = next(_numbers)
    message = {
        "id": number,
        "type": "standard",
        "type_role": "user",
        "status": "new",
        "text": text,
        "send_time": datetime.now(UTC).isoformat(timespec="seconds"),
        "message_index": number,
        "chat": CHAT,
        "user": USER,
        "attachments": [],
    }
    return {"message": message}

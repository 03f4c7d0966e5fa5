"""Reads the contract's own JSON examples from `contract_examples/<operation>_<event or body>.json`."""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent / "contract_examples"

COMMANDS: Final = ("01_send_message", "02_mark_message_delivered", "02_mark_message_read", "03_update_typing")
EVENTS: Final = (
    "04_message_added",
    "05_message_updated",
    "06_user_connected",
    "06_user_disconnected",
    "07_message_added",
    "07_chat_updated",
    "07_operator_updated",
    "07_typing_updated",
    "07_global_updated",
)
BODIES: Final = ("08_chat", "09_operators", "10_message", "11_global")


def example(name: str) -> str:
    """Return the JSON text of one example."""
    return (_FOLDER / f"{name}.json").read_text("utf-8")

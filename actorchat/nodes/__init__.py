"""Several nodes of one deployment: the bus between them, their registry, and what they hear of each other."""

from actorchat.nodes.local_bus import LocalBus
from actorchat.nodes.notes import MOST_WHISPERED, Note, Told, Whisper
from actorchat.nodes.ports import Bus

__all__ = ["MOST_WHISPERED", "Bus", "LocalBus", "Note", "Told", "Whisper"]

"""Several nodes of one deployment: the bus between them, their registry, and what they hear of each other."""

from actorchat.nodes.memory_bus import MemoryBus
from actorchat.nodes.notes import MOST_WHISPERED, Note, Told, Whisper
from actorchat.nodes.ports import Bus

__all__ = ["MOST_WHISPERED", "Bus", "MemoryBus", "Note", "Told", "Whisper"]

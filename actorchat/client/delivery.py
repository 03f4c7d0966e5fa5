"""Owns one message on its way: what it says, and the outcome its sender waits for.

Refuses to know sockets and the order of messages.
"""

from uuid import UUID

import attrs
import outcome
import trio

from actorchat.protocol.entities import Message, MessageType


@attrs.define(eq=False)
class Delivery:
    """A message handed to a room connection.

    ``client_id`` names it for ever: sending the same text again with it stores it once.
    """

    client_id: str
    text: str
    attachments: tuple[UUID, ...]
    repeats: bool = False
    """Its ``client_id`` may have been used before, on another connection."""
    _result: outcome.Maybe[Message] | None = attrs.field(default=None, init=False, repr=False)
    _settled: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    @property
    def settled(self) -> bool:
        """Whether `wait` would return or raise at once."""
        return self._result is not None

    async def wait(self) -> Message:
        """Wait for the outcome: the stored message.

        Raises NotAdded when the server refused it, and Undelivered when the connection ended before its
        outcome was known. Any number of tasks may wait; a cancelled wait changes nothing.
        """
        await self._settled.wait()
        if self._result is None:
            raise AssertionError("a settled delivery has a result")
        if isinstance(self._result, outcome.Error):
            raise self._result.error
        return self._result.value

    def is_stored_as(self, message: Message) -> bool:
        """Whether ``message`` is what was sent: its ``client_id`` may have been used for another one."""
        same_files = tuple(attachment.uuid for attachment in message.attachments) == self.attachments
        return message.type is MessageType.STANDARD and message.text == self.text and same_files

    def settle(self, result: outcome.Maybe[Message]) -> None:
        """Record the outcome; the first one counts. For the connection only."""
        if self._result is None:
            self._result = result
            self._settled.set()

"""Represents a message that is being sent, and its outcome."""

from uuid import UUID

import attrs
import outcome
import trio

from actorchat.protocol.entities import Message, MessageType


@attrs.define(eq=False)
class Delivery:
    """A message that was handed to a room connection.

    ``client_id`` is its idempotency key: sending the same text with the same key again stores it only once.
    """

    client_id: str
    text: str
    attachments: tuple[UUID, ...]
    repeats: bool = False
    """The caller chose the ``client_id``, so it may have been used on an earlier connection."""
    _result: outcome.Maybe[Message] | None = attrs.field(default=None, init=False, repr=False)
    _settled: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    @property
    def settled(self) -> bool:
        """Whether the outcome is known: `wait` returns or raises without blocking."""
        return self._result is not None

    async def wait(self) -> Message:
        """Wait until the message is stored, and return it as stored.

        Raises NotAdded if the server refused it, and Undelivered if the connection ended before the outcome was known.
        Several tasks may wait; cancelling a wait does not cancel the message.
        """
        await self._settled.wait()
        if self._result is None:
            raise AssertionError("a settled delivery has a result")
        if isinstance(self._result, outcome.Error):
            raise self._result.error
        return self._result.value

    def is_stored_as(self, message: Message) -> bool:
        """Whether ``message`` has this text and these attachments; a caller's ``client_id`` may have been reused."""
        same_files = tuple(attachment.uuid for attachment in message.attachments) == self.attachments
        return message.type is MessageType.STANDARD and message.text == self.text and same_files

    def settle(self, result: outcome.Maybe[Message]) -> None:
        """Set the outcome, unless it is set already. Called by the connection."""
        if self._result is None:
            self._result = result
            self._settled.set()

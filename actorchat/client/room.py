"""Connects to the room of a chat and stays connected: receives its events, sends messages, receipts and typing."""

import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from random import Random, SystemRandom
from typing import Final
from uuid import UUID, uuid4

import outcome
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from actorchat.client.backoff import Backoff
from actorchat.client.delivery import Delivery
from actorchat.client.disconnect import BAD_FRAME_CODES, Closed, Ending, Reopened, Unreachable
from actorchat.client.errors import NotAdded
from actorchat.client.event_dedup import EventDeduplicator
from actorchat.client.outbox import Outbox
from actorchat.client.pending_receipts import PendingReceipts
from actorchat.client.reconnect import ConnectionState, Reconnector, run_in_background
from actorchat.client.server_urls import ServerAddress
from actorchat.client.websocket import Dial, Target, dial_tcp, run_websocket, tls_context
from actorchat.protocol.codec import UnknownType, decode_event, encode_command
from actorchat.protocol.commands import SendMessage
from actorchat.protocol.events import (
    RETRYABLE,
    ErrorEvent,
    Event,
    MessageAdded,
    MessageNotAdded,
    RefusalCode,
    ResyncRequired,
)
from actorchat.protocol.frames import CloseCode
from actorchat.protocol.limits import MAX_FRAME_BYTES
from actorchat.protocol.validation import Malformed

REPLAY_WAIT_SECONDS: Final = 10.0
"""How long commands that may be repeats wait for the replay before they are sent anyway."""


def open_room(
    url: str,
    chat: UUID | str,
    *,
    token: str,
    after: int | None = None,
    quiet: bool = False,
    outbox: int = 256,
    inbox: int = 256,
    random: Random | None = None,
    dial: Dial = dial_tcp,
    tls: ssl.SSLContext | None = None,
) -> AbstractAsyncContextManager["RoomConnection"]:
    """Open a chat's room on the server at ``url``, and reconnect whenever the socket is lost.

    ``after`` is the index of the last message already known: all later messages are received, with -1 the whole chat.
    None starts with new messages only; if the first socket is lost before any message was received, the whole chat is
    replayed rather than risk missing one.

    With ``quiet``, which is for operators, the user is not shown as connected, and can't mark messages or show typing.

    Entering the block does not wait for the server; `RoomConnection.wait_live` does. Exceptions of the block are raised
    unchanged. Leaving the block closes the socket within a second and ends all tasks; messages that are not confirmed
    yet become `Undelivered`.

    ``outbox`` bounds the messages that are not confirmed yet: `RoomConnection.send` waits while it is full. ``inbox``
    bounds the received events: while it is full, nothing is read from the socket. So the program has to iterate over
    the room; deliveries are confirmed only as fast as events are consumed. The server closes the socket of a client
    that does not read for a minute; the room then reconnects and misses nothing.

    ``random`` is the source of the jitter, ``dial`` opens the stream, ``tls`` replaces the default TLS context.
    Raises ValueError if ``url`` or ``chat`` is not valid.
    """
    server = ServerAddress.parse(url)
    target = Target(server, token, dial, tls_context(server, tls))
    room = RoomConnection(
        target,
        chat if isinstance(chat, UUID) else UUID(chat),
        after,
        outbox,
        inbox,
        random or SystemRandom(),
        quiet=quiet,
    )
    return _run(room)


@asynccontextmanager
async def _run(room: "RoomConnection") -> AsyncIterator["RoomConnection"]:
    async with run_in_background(room.run):
        yield room


class RoomConnection:
    """One user's connection to one room. Made by `open_room`.

    Iterating yields the room's events in the server's order, each once and without gaps, across reconnects. Events that
    only repeat what was reported are left out, and users who left while the socket was lost are reported as
    disconnected. `ResyncRequired` means that the server has a different history of the chat, as after a restored
    backup: discard the messages received so far, all messages follow from the first. The iteration raises
    `ConnectionEnded` if the server ends the connection for good, after all earlier events, and stops after `aclose`.
    Only one task may iterate.
    """

    def __init__(
        self,
        target: Target,
        chat: UUID,
        after: int | None,
        outbox: int,
        inbox: int,
        random: Random,
        *,
        quiet: bool = False,
    ) -> None:
        self._quiet = quiet
        self._target = target
        self._chat = chat
        self._reconnector = Reconnector(Backoff(random))
        self._deduplicator = EventDeduplicator(after)
        self._free_slots = trio.Semaphore(outbox, max_value=outbox)
        self._outbox = Outbox(Backoff(random), self._on_settled)
        self._outbox_empty = trio.Event()
        self._receipts = PendingReceipts(Backoff(random))
        self._wake_send, self._wake = trio.open_memory_channel[None](1)
        self._events_send, self._events = trio.open_memory_channel[Event](inbox)
        self._unsent_events: deque[Event] = deque()
        # These describe the current socket.
        self._replay_over = trio.Event()
        self._first_event = trio.Event()
        self._own_ending: Ending | None = None
        self._receipts_written = False
        self._was_live = False
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def state(self) -> ConnectionState:
        """The state of the connection: connecting, live, waiting to reconnect, or closed."""
        return self._reconnector.state

    @property
    def reason(self) -> str:
        """Why the connection is not live, in one line for users; ``""`` while it is."""
        return self._reconnector.reason

    @property
    def last_index(self) -> int | None:
        """The index of the newest message received; a later connection can pass it as ``after``."""
        return self._deduplicator.last_index

    async def wait_live(self) -> None:
        """Wait until the connection is live. Raises ConnectionEnded, or ClosedResourceError after `aclose`."""
        await self._reconnector.wait_live()

    async def wait_state_change(self, seen: ConnectionState) -> ConnectionState:
        """Wait until `state` differs from ``seen``, and return it."""
        return await self._reconnector.wait_state_change(seen)

    async def wait_outbox_empty(self) -> None:
        """Wait until every message has been stored or refused."""
        while len(self._outbox):
            await self._outbox_empty.wait()

    async def send(self, text: str, attachments: Sequence[UUID] = (), *, client_id: str | None = None) -> Delivery:
        """Queue a message for sending and return its `Delivery`. Waits only while the outbox is full.

        Messages are stored in the order in which they were sent, one at a time. A message whose confirmation was lost
        with the socket is sent again with the same ``client_id``, and so stored once. A temporary refusal
        (``rate_limited``, ``overloaded``, ``storage_unavailable``, ``draining``) is retried without limit, after its
        ``retry_after`` or a backoff, and later messages wait for it. Any other refusal fails this message only. While
        the outbox is full, callers wait in order; if one is cancelled while it waits, its message is not sent.

        ``client_id`` repeats a message of an earlier connection. Raises ConnectionEnded or ClosedResourceError if the
        connection has ended.
        """
        self._reconnector.check_open()
        delivery = Delivery(client_id or uuid4().hex, text, tuple(attachments), repeats=client_id is not None)
        size = len(encode_command(_command(delivery)))
        await self._free_slots.acquire()
        try:
            self._reconnector.check_open()
        except BaseException:
            self._free_slots.release()
            raise
        if size > MAX_FRAME_BYTES:
            self._free_slots.release()
            detail = f"the message is {size} bytes long, but the limit is {MAX_FRAME_BYTES}"
            too_long = NotAdded(RefusalCode.TOO_LONG, detail, text=text, client_id=delivery.client_id)
            delivery.settle(outcome.Error(too_long))
            return delivery
        self._receipts.clear_typing()
        self._outbox.append(delivery)
        self._wake_writer()
        return delivery

    def mark_delivered(self, message_id: int) -> None:
        """Mark all messages of the other side up to this one as delivered. Does not block.

        Only the highest mark is kept; it is sent again after a reconnect. A message that was not received recently is
        assumed to be the newest.
        """
        self._receipts.delivered(message_id, self._deduplicator.index_of(message_id))
        self._wake_writer()

    def mark_read(self, message_id: int) -> None:
        """Mark all messages of the other side up to this one as read. Otherwise like `mark_delivered`."""
        self._receipts.read(message_id, self._deduplicator.index_of(message_id))
        self._wake_writer()

    def update_typing(self, text: str) -> None:
        """Report the text of the input field. Does not block.

        At most four updates per second are sent; a newer text replaces an unsent one. Updates are not sent again after
        a reconnect. The server assumes that typing has stopped after six seconds without an update.
        """
        self._receipts.typing(text, stopped=False)
        self._wake_writer()

    def stop_typing(self) -> None:
        """Report that the user stopped typing. Not needed when a message is sent."""
        self._receipts.typing("", stopped=True)
        self._wake_writer()

    async def aclose(self) -> None:
        """Close the connection; messages that are not confirmed become `Undelivered`. Idempotent."""
        self._scope.cancel()
        await self._ended.wait()

    def __aiter__(self) -> "RoomConnection":
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._events.receive()
        except trio.EndOfChannel:
            if self._reconnector.error is not None:
                raise self._reconnector.error from None
            raise StopAsyncIteration from None

    async def run(self) -> None:
        """Keep the room open until it ends. Called by `open_room`."""
        try:
            with self._scope:
                await self._reconnector.run(self._connect_once, self._on_socket_lost)
        finally:
            self._reconnector.set_closed()
            self._outbox.fail_all()
            self._events_send.close()
            self._ended.set()

    async def _connect_once(self) -> Ending:
        after = self._deduplicator.last_index
        if after is None and self._was_live:
            after = -1
        self._reset_socket_state()

        async def use_socket(socket: WebSocketConnection) -> None:
            self._deduplicator.socket_opened(resumed=after is not None)
            if not self._deduplicator.replaying:
                self._replay_over.set()
                self._first_event.set()
            self._was_live = True
            self._reconnector.set_live()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, socket)
                await self._read(socket)
                nursery.cancel_scope.cancel()

        ending = await run_websocket(
            self._target, self._target.server.room(self._chat, after, quiet=self._quiet), use_socket
        )
        return self._own_ending or ending

    def _reset_socket_state(self) -> None:
        self._own_ending = None
        self._receipts_written = False
        self._replay_over = trio.Event()
        self._first_event = trio.Event()

    async def _on_socket_lost(self, ending: Ending) -> bool:
        frame_dropped = False
        if isinstance(ending, Closed) and ending.code in BAD_FRAME_CODES:
            frame_dropped = self._drop_bad_frame(ending)
        self._outbox.socket_lost()
        self._receipts.socket_lost()
        self._unsent_events.extend(self._deduplicator.socket_lost())
        await self._flush_events()
        return frame_dropped

    def _drop_bad_frame(self, ending: Closed) -> bool:
        """Drop what made the server close the socket, so that it is not sent again. Returns whether it was found."""
        code = RefusalCode.TOO_LONG if ending.code == CloseCode.TOO_BIG else RefusalCode.MALFORMED
        detail = f"the server closed the connection because of this message ({ending.code})"
        if self._outbox.fail_in_flight(code, detail):
            return True
        if self._receipts_written:
            self._receipts.discard()
        return self._receipts_written

    async def _read(self, socket: WebSocketConnection) -> None:
        await self._flush_events()
        while True:
            payload = await socket.get_message()
            try:
                event = decode_event(payload)
            except Malformed as error:
                self._own_ending = Unreachable(f"the server sent an invalid event: {error}")
                return
            if isinstance(event, ResyncRequired):
                self._receipts.discard()
            self._first_event.set()
            if isinstance(event, UnknownType):
                continue
            if isinstance(event, MessageNotAdded):
                self._outbox.refused(event, trio.current_time())
                self._wake_writer()
                continue
            if isinstance(event, ErrorEvent) and event.path == "data.message_id" and event.code in RETRYABLE:
                self._receipts.refused(trio.current_time())
                self._wake_writer()
                continue
            if isinstance(event, MessageAdded) and self._confirm(event):
                self._own_ending = Reopened()
                return
            self._unsent_events.extend(self._deduplicator.filter(event))
            if not self._deduplicator.replaying:
                self._replay_over.set()
            await self._flush_events()

    def _confirm(self, event: MessageAdded) -> bool:
        """Settle our own message. Returns whether the event may be out of order, so that the room has to resume.

        The answer to a repeated client_id is the only event that comes out of order. If messages before it are
        missing, it cannot be told from an event in order, so the room resumes from before the gap.
        """
        index = event.message.message_index
        may_be_out_of_order = self._outbox.stored(event, known=self._deduplicator.has_reported(index))
        self._wake_writer()
        return may_be_out_of_order and self._deduplicator.would_leave_gap(index)

    async def _flush_events(self) -> None:
        # Remove an event only after it was sent, because this wait is cancelled when the socket is lost.
        while self._unsent_events:
            await self._events_send.send(self._unsent_events[0])
            self._unsent_events.popleft()

    async def _write(self, socket: WebSocketConnection) -> None:
        # The reading task reports the close, after it has read all earlier events.
        with suppress(ConnectionClosed):
            if self._receipts.due:
                # These receipts may be for messages of an old history; then the first event is `ResyncRequired`.
                with trio.move_on_after(REPLAY_WAIT_SECONDS):
                    await self._first_event.wait()
            while True:
                if self._outbox.repeats:
                    # The replay may contain the message, and then it need not be sent again.
                    with trio.move_on_after(REPLAY_WAIT_SECONDS):
                        await self._replay_over.wait()
                now = trio.current_time()
                update = self._receipts.take(now)
                if update is not None:
                    self._receipts_written = True
                    await socket.send_message(encode_command(update).decode())
                elif self._outbox.ready_at() <= now:
                    await socket.send_message(encode_command(_command(self._outbox.take())).decode())
                else:
                    with trio.move_on_at(min(self._outbox.ready_at(), self._receipts.ready_at())):
                        await self._wake.receive()

    def _wake_writer(self) -> None:
        with suppress(trio.WouldBlock):
            self._wake_send.send_nowait(None)

    def _on_settled(self) -> None:
        self._free_slots.release()
        if not len(self._outbox):
            self._outbox_empty.set()
            self._outbox_empty = trio.Event()


def _command(delivery: Delivery) -> SendMessage:
    return SendMessage(delivery.text, delivery.attachments, delivery.client_id)

"""Owns the connection to one chat's room: events in, messages, marks and typing out, over many sockets.

Refuses to know who looks at them, and every rule of the chat.
"""

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
from actorchat.client.disconnect import OUR_FRAME, Closed, Ending, Reopened, Unreachable
from actorchat.client.errors import NotAdded
from actorchat.client.event_dedup import EventDeduplicator
from actorchat.client.outbox import Outbox
from actorchat.client.pending_receipts import PendingReceipts
from actorchat.client.reconnect import ConnectionState, Reconnector, run_beside
from actorchat.client.server_urls import ServerAddress
from actorchat.client.websocket import Dial, Target, attend, dial_tcp, tls_context
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

REPLAY_PATIENCE: Final = 10.0
"""Seconds a message in doubt waits for the end of a replay before it leaves all the same."""


def open_room(
    url: str,
    chat: UUID | str,
    *,
    token: str,
    after: int | None = None,
    outbox: int = 256,
    inbox: int = 256,
    random: Random | None = None,
    dial: Dial = dial_tcp,
    tls: ssl.SSLContext | None = None,
) -> AbstractAsyncContextManager["RoomConnection"]:
    """Open a chat's room on the server at ``url`` and keep it open over every lost socket.

    ``after`` is the last message index already known: everything later comes, -1 for the whole chat.
    None starts with what happens from now on (if the first socket is lost before any message came, the
    whole chat is replayed rather than one missed).

    Entering does not wait for the server: `RoomConnection.wait_live` does. Whatever the block raises comes
    out as it is. Leaving closes the socket within a second and leaves no task; messages still on their
    way become `Undelivered`.

    ``outbox`` bounds the messages on their way: `RoomConnection.send` waits for a place. ``inbox`` bounds the
    events not yet read: when full, the socket is not read either, so a program has to iterate the room
    (deliveries settle only as fast as events are read). A server closes a reader that stalls for a minute;
    the room then comes back by itself and misses nothing.

    ``random`` drives the jitter, ``dial`` makes the stream, ``tls`` replaces the default context.
    Raises ValueError for an address or an id that is none.
    """
    server = ServerAddress.parse(url)
    target = Target(server, token, dial, tls_context(server, tls))
    room = RoomConnection(
        target, chat if isinstance(chat, UUID) else UUID(chat), after, outbox, inbox, random or SystemRandom()
    )
    return _opened(room)


@asynccontextmanager
async def _opened(room: "RoomConnection") -> AsyncIterator["RoomConnection"]:
    async with run_beside(room.run):
        yield room


class RoomConnection:
    """One participant's connection to one room; made by `open_room`.

    Iterating gives the room's events in the server's order, each once and none missing, over any number of
    sockets; an event that only repeats what is known is left out, and who left unseen is reported as
    disconnected. `ResyncRequired` says that the chat has another history than before (a restored backup):
    what came until then is to be forgotten, and everything follows from the first message on. The iteration
    raises `ConnectionEnded` when the server ended it for good, after the events that came before; it stops
    after `aclose`. One task iterates at a time.
    """

    def __init__(self, target: Target, chat: UUID, after: int | None, outbox: int, inbox: int, random: Random) -> None:
        self._target = target
        self._chat = chat
        self._reconnector = Reconnector(Backoff(random))
        self._deduplicator = EventDeduplicator(after)
        self._places = trio.Semaphore(outbox, max_value=outbox)
        self._outbox = Outbox(Backoff(random), self._on_settled)
        self._outbox_empty = trio.Event()
        self._marks = PendingReceipts(Backoff(random))
        self._wake_send, self._wake = trio.open_memory_channel[None](1)
        self._events_send, self._events = trio.open_memory_channel[Event](inbox)
        self._unsent_events: deque[Event] = deque()
        self._replay_over = trio.Event()
        self._begun = trio.Event()
        self._verdict: Ending | None = None
        self._was_live = False
        self._marks_written = False
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands: connecting, live, waiting to come back, or closed."""
        return self._reconnector.state

    @property
    def reason(self) -> str:
        """Why it is not live, in one line for people."""
        return self._reconnector.reason

    @property
    def last_index(self) -> int | None:
        """The newest message's index so far: what another connection may give as ``after``."""
        return self._deduplicator.last_index

    async def wait_live(self) -> None:
        """Wait for a live socket; raises ConnectionEnded, or ClosedResourceError after `aclose`."""
        await self._reconnector.wait_live()

    async def wait_state_change(self, seen: ConnectionState) -> ConnectionState:
        """Wait until `state` is another than ``seen``, and return it."""
        return await self._reconnector.wait_change(seen)

    async def wait_outbox_empty(self) -> None:
        """Wait until no message is on its way."""
        while len(self._outbox):
            await self._outbox_empty.wait()

    async def send(self, text: str, attachments: Sequence[UUID] = (), *, client_id: str | None = None) -> Delivery:
        """Hand over a message, and return at once with its `Delivery` unless the outbox is full.

        Messages are stored in the order of their sends: one is in flight at a time. A message whose answer
        is lost with its socket is sent again with the same ``client_id`` and so stored once. A retryable
        refusal (``rate_limited``, ``overloaded``, ``storage_unavailable``, ``draining``) is tried again
        after its ``retry_after`` or a backoff, without end, and those behind wait for it; any other refusal
        fails this message alone. A full outbox makes senders wait, first come first served; cancelled in
        that wait, nothing is sent.

        ``client_id`` repeats a message of an earlier connection. Raises ConnectionEnded or
        ClosedResourceError when the connection is over.
        """
        self._reconnector.check_open()
        delivery = Delivery(client_id or uuid4().hex, text, tuple(attachments), repeats=client_id is not None)
        size = len(encode_command(_command(delivery)))
        await self._places.acquire()
        try:
            self._reconnector.check_open()
        except BaseException:
            self._places.release()
            raise
        if size > MAX_FRAME_BYTES:
            self._places.release()
            detail = f"a message takes at most {MAX_FRAME_BYTES} bytes, this one {size}"
            too_long = NotAdded(RefusalCode.TOO_LONG, detail, text=text, client_id=delivery.client_id)
            delivery.settle(outcome.Error(too_long))
            return delivery
        self._marks.forget_typing()
        self._outbox.append(delivery)
        self._wake_writer()
        return delivery

    def mark_delivered(self, message_id: int) -> None:
        """Tell that everything of the other side up to this message arrived.

        Never waits. Only the highest mark counts and is told again after a lost socket; of a message not
        seen lately it is taken to be the newest.
        """
        self._marks.delivered(message_id, self._deduplicator.index_of(message_id))
        self._wake_writer()

    def mark_read(self, message_id: int) -> None:
        """Tell that everything of the other side up to this message was read; else as `mark_delivered`."""
        self._marks.read(message_id, self._deduplicator.index_of(message_id))
        self._wake_writer()

    def update_typing(self, text: str) -> None:
        """Tell what stands in the input field; at most four a second leave, the latest wins.

        Never waits. Not told again after a lost socket; the server takes six silent seconds for a stop.
        """
        self._marks.typing(text, stopped=False)
        self._wake_writer()

    def stop_typing(self) -> None:
        """Tell that nothing is being written any more; sending a message says so by itself."""
        self._marks.typing("", stopped=True)
        self._wake_writer()

    async def aclose(self) -> None:
        """Close the socket and end the connection; what is on its way becomes Undelivered. Idempotent."""
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
        """Keep the room open until it ends; for `open_room` only."""
        try:
            with self._scope:
                await self._reconnector.run(self._attempt, self._lost)
        finally:
            self._reconnector.closed()
            self._outbox.give_up()
            self._events_send.close()
            self._ended.set()

    async def _attempt(self) -> Ending:
        after = self._deduplicator.last_index
        if after is None and self._was_live:
            after = -1
        self._forget_last_socket()

        async def converse(socket: WebSocketConnection) -> None:
            self._deduplicator.opened(resumed=after is not None)
            if not self._deduplicator.replaying:
                self._replay_over.set()
                self._begun.set()
            self._was_live = True
            self._reconnector.live()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, socket)
                await self._read(socket)
                nursery.cancel_scope.cancel()

        ending = await attend(self._target, self._target.server.room(self._chat, after), converse)
        return self._verdict or ending

    def _forget_last_socket(self) -> None:
        self._verdict = None
        self._marks_written = False
        self._replay_over = trio.Event()
        self._begun = trio.Event()

    async def _lost(self, ending: Ending) -> bool:
        blamed = False
        if isinstance(ending, Closed) and ending.code in OUR_FRAME:
            blamed = self._blame(ending)
        self._outbox.socket_lost()
        self._marks.socket_lost()
        self._unsent_events.extend(self._deduplicator.lost())
        await self._flush_events()
        return blamed

    def _blame(self, ending: Closed) -> bool:
        code = RefusalCode.TOO_LONG if ending.code == CloseCode.TOO_BIG else RefusalCode.MALFORMED
        detail = f"the server closed the connection over this message ({ending.code})"
        if self._outbox.blame(code, detail):
            return True
        if self._marks_written:
            self._marks.drop()
        return self._marks_written

    async def _read(self, socket: WebSocketConnection) -> None:
        await self._flush_events()
        while True:
            payload = await socket.get_message()
            try:
                event = decode_event(payload)
            except Malformed as error:
                self._verdict = Unreachable(f"the server sent what is no event: {error}")
                return
            if isinstance(event, ResyncRequired):
                self._marks.drop()
            self._begun.set()
            if isinstance(event, UnknownType):
                continue
            if isinstance(event, MessageNotAdded):
                self._outbox.refused(event, trio.current_time())
                self._wake_writer()
                continue
            if isinstance(event, ErrorEvent) and event.path == "data.message_id" and event.code in RETRYABLE:
                self._marks.refused(trio.current_time())
                self._wake_writer()
                continue
            if isinstance(event, MessageAdded) and self._overtakes(event):
                self._verdict = Reopened()
                return
            self._unsent_events.extend(self._deduplicator.take(event))
            if not self._deduplicator.replaying:
                self._replay_over.set()
            await self._flush_events()

    def _overtakes(self, event: MessageAdded) -> bool:
        """Settle our own message; whether its answer came ahead of messages not yet seen.

        The answer to a repeated client_id is the one event outside the room's order. Behind a hole nothing
        tells it from the ordered event, so the room resumes from before the hole.
        """
        may_be_an_answer = self._outbox.stored(event)
        self._wake_writer()
        return may_be_an_answer and self._deduplicator.leaves_a_hole(event.message.message_index)

    async def _flush_events(self) -> None:
        # An event leaves the queue only once it is handed over: this wait is cancelled when a socket is lost.
        while self._unsent_events:
            await self._events_send.send(self._unsent_events[0])
            self._unsent_events.popleft()

    async def _write(self, socket: WebSocketConnection) -> None:
        # The reader reports the end: it has read what came before the close.
        with suppress(ConnectionClosed):
            if self._marks.due:
                # Marks that are sent again may name messages of another history: the first event says so.
                with trio.move_on_after(REPLAY_PATIENCE):
                    await self._begun.wait()
            while True:
                if self._outbox.repeats:
                    with trio.move_on_after(REPLAY_PATIENCE):
                        await self._replay_over.wait()
                now = trio.current_time()
                update = self._marks.take(now)
                if update is not None:
                    self._marks_written = True
                    await socket.send_message(encode_command(update).decode())
                elif self._outbox.ready_at() <= now:
                    await socket.send_message(encode_command(_command(self._outbox.take())).decode())
                else:
                    with trio.move_on_at(min(self._outbox.ready_at(), self._marks.ready_at())):
                        await self._wake.receive()

    def _wake_writer(self) -> None:
        with suppress(trio.WouldBlock):
            self._wake_send.send_nowait(None)

    def _on_settled(self) -> None:
        self._places.release()
        if not len(self._outbox):
            self._outbox_empty.set()
            self._outbox_empty = trio.Event()


def _command(delivery: Delivery) -> SendMessage:
    return SendMessage(delivery.text, delivery.attachments, delivery.client_id)

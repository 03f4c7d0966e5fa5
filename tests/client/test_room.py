from contextlib import AbstractAsyncContextManager
from itertools import pairwise

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from actorchat.client import (
    ConnectionEnded,
    ConnectionState,
    NoSuchChat,
    NotAdded,
    NotAllowed,
    NotAuthenticated,
    RoomConnection,
    SignedOut,
    Undelivered,
    open_room,
)
from actorchat.protocol.commands import MarkMessageDelivered, MarkMessageRead, SendMessage, UpdateTyping
from actorchat.protocol.events import (
    ChatUpdated,
    ErrorEvent,
    Event,
    MessageAdded,
    MessageUpdated,
    RefusalCode,
    ResyncRequired,
    TypingUpdated,
    UserConnected,
    UserDisconnected,
)
from tests.client.scripted_server import (
    CHAT,
    OPERATOR,
    VISITOR,
    NoJitter,
    Script,
    ScriptedServer,
    ServerSocket,
    answer,
    message,
    presence,
    refusal,
)


def opened(
    server: ScriptedServer, *, after: int | None = None, outbox: int = 256, inbox: int = 256
) -> AbstractAsyncContextManager[RoomConnection]:
    return open_room(
        "http://test",
        CHAT.uuid,
        token="t",
        after=after,
        outbox=outbox,
        inbox=inbox,
        random=NoJitter(),
        dial=server.dial,
    )


async def stay(peer: ServerSocket) -> None:
    await trio.sleep(60)


def close_with(code: int) -> Script:
    async def script(peer: ServerSocket) -> None:
        await peer.close(code)

    return script


async def indexes(room: RoomConnection, count: int) -> list[int]:
    seen: list[int] = []
    async for event in room:
        if isinstance(event, MessageAdded):
            seen.append(event.message.message_index)
        if len(seen) == count:
            break
    return seen


async def test_a_socket_asks_for_the_extended_profile_with_its_token(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    server = ScriptedServer(nursery, stay)
    async with opened(server, after=4) as room:
        await room.wait_live()
        assert room.state == "live"
    assert server.resources == [f"/ws/chats/{CHAT.uuid}?after=4"]
    assert server.headers[0][b"authorization"] == b"Bearer t"
    assert room.state == "closed"


async def test_events_come_once_and_in_order_over_a_lost_socket(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def first(peer: ServerSocket) -> None:
        await peer.end_replay()
        await peer.tell(*(MessageAdded(message(index)) for index in range(3)))
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        await peer.tell(*(MessageAdded(message(index)) for index in (2, 3)))
        await peer.end_replay(3)
        await peer.tell(MessageAdded(message(4)))
        await stay(peer)

    server = ScriptedServer(nursery, first, second)
    async with opened(server, after=-1) as room:
        assert await indexes(room, 5) == [0, 1, 2, 3, 4]
    assert [resource.partition("?")[2] for resource in server.resources] == ["after=-1", "after=2"]


async def test_an_unanswered_message_is_sent_again_with_the_same_client_id(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    names = []

    async def first(peer: ServerSocket) -> None:
        names.append((await peer.hear_message()).client_id)
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        await peer.end_replay()
        names.append((await answer(peer, 0)).client_id)
        await stay(peer)

    async with opened(ScriptedServer(nursery, first, second)) as room:
        delivery = await room.send("hello")
        stored = await delivery.wait()
    assert names == [delivery.client_id] * 2
    assert (stored.text, stored.message_index) == ("hello", 0)


async def test_a_gap_before_an_answer_makes_the_room_resume_from_before_it(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    async def first(peer: ServerSocket) -> None:
        await peer.end_replay()
        await peer.tell(MessageAdded(message(0)))
        await peer.hear()
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        await peer.end_replay(0)
        await answer(peer, 3)
        await stay(peer)

    async def third(peer: ServerSocket) -> None:
        await peer.tell(*(MessageAdded(message(index)) for index in (1, 2, 3)))
        await peer.end_replay(3)
        await stay(peer)

    server = ScriptedServer(nursery, first, second, third)
    async with opened(server, after=-1) as room:
        delivery = await room.send("mine")
        assert await indexes(room, 4) == [0, 1, 2, 3]
        assert (await delivery.wait()).message_index == 3
    assert server.resources[2].endswith("after=0")
    assert server.dialled_at[2] == server.dialled_at[1]


async def test_an_answer_to_an_old_key_hides_no_later_message(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def first(peer: ServerSocket) -> None:
        await peer.end_replay()
        await answer(peer, 3)
        await peer.tell(*(MessageAdded(message(index)) for index in (1, 2)))
        await stay(peer)

    async def second(peer: ServerSocket) -> None:
        await peer.tell(*(MessageAdded(message(index)) for index in (1, 2, 3)))
        await peer.end_replay(3)
        await stay(peer)

    server = ScriptedServer(nursery, first, second)
    async with opened(server, after=0) as room:
        delivery = await room.send("mine", client_id="of an earlier program")
        assert await indexes(room, 3) == [1, 2, 3]
        assert (await delivery.wait()).message_index == 3
    assert server.resources[1].endswith("after=0")


async def test_a_room_without_after_does_not_begin_with_an_answer(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def first(peer: ServerSocket) -> None:
        await answer(peer, 3)
        await stay(peer)

    async def second(peer: ServerSocket) -> None:
        await peer.tell(*(MessageAdded(message(index)) for index in range(5)))
        await peer.end_replay(4)
        await stay(peer)

    server = ScriptedServer(nursery, first, second)
    async with opened(server) as room:
        await room.send("mine", client_id="of an earlier program")
        assert await indexes(room, 5) == [0, 1, 2, 3, 4]
    assert server.resources[1].endswith("after=-1")


async def test_a_replayed_message_under_the_same_key_with_another_text_settles_nothing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def script(peer: ServerSocket) -> None:
        await peer.tell(MessageAdded(message(0, "old", user=VISITOR), "k"))
        await peer.end_replay(0)
        await peer.tell(refusal(await peer.hear_message(), RefusalCode.CONFLICT))
        await stay(peer)

    async with opened(ScriptedServer(nursery, script), after=-1) as room:
        delivery = await room.send("new", client_id="k")
        with pytest.raises(NotAdded, match="conflict"):
            await delivery.wait()
        assert await indexes(room, 1) == [0]


async def test_an_edited_message_confirms_the_send_whose_answer_was_lost(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    keys: list[str | None] = []

    async def first(peer: ServerSocket) -> None:
        keys.append((await peer.hear_message()).client_id)
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        await peer.tell(MessageAdded(message(0, "", user=VISITOR), keys[0]))
        await peer.end_replay(0)
        await stay(peer)

    async with opened(ScriptedServer(nursery, first, second), after=-1) as room:
        delivery = await room.send("removed before it was answered")
        assert (await delivery.wait()).message_index == 0


async def test_an_edited_message_answers_another_text_under_its_key(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def script(peer: ServerSocket) -> None:
        edited = MessageAdded(message(0, "edited", user=VISITOR), "k")
        await peer.tell(edited)
        await peer.end_replay(0)
        assert (await peer.hear_message()).text == "as it was"
        await peer.tell(edited)
        await stay(peer)

    async with opened(ScriptedServer(nursery, script), after=-1) as room:
        delivery = await room.send("as it was", client_id="k")
        assert (await delivery.wait()).text == "edited"
        assert await indexes(room, 1) == [0]


async def test_an_unanswered_message_is_sent_again_only_after_the_replay(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    order: list[str] = []

    async def first(peer: ServerSocket) -> None:
        await peer.hear()
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        with trio.move_on_after(5):
            await peer.hear()
            order.append("sent")
        order.append("replayed")
        await peer.end_replay()
        await answer(peer, 0)
        order.append("answered")
        await stay(peer)

    async with opened(ScriptedServer(nursery, first, second)) as room:
        await (await room.send("hello")).wait()
    assert order == ["replayed", "answered"]


async def test_a_refusal_fails_that_message_alone(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def script(peer: ServerSocket) -> None:
        await peer.tell(refusal(await peer.hear_message(), RefusalCode.TOO_LONG))
        await answer(peer, 0)
        await stay(peer)

    async with opened(ScriptedServer(nursery, script)) as room:
        first, second = await room.send("one"), await room.send("two")
        with pytest.raises(NotAdded, match="too_long") as refused:
            await first.wait()
        assert (refused.value.code, refused.value.text) == ("too_long", "one")
        assert (await second.wait()).text == "two"


async def test_a_retryable_refusal_is_sent_again_before_later_messages(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    heard: list[tuple[str, float]] = []

    async def script(peer: ServerSocket) -> None:
        for retry_after in (3.0, 2.0):
            command = await peer.hear_message()
            heard.append((command.text, trio.current_time()))
            await peer.tell(refusal(command, RefusalCode.RATE_LIMITED, retry_after=retry_after))
        heard.extend([((await answer(peer, index)).text, trio.current_time()) for index in range(2)])
        await stay(peer)

    start = trio.current_time()
    async with opened(ScriptedServer(nursery, script)) as room:
        deliveries = [await room.send(text) for text in ("one", "two")]
        assert [(await delivery.wait()).message_index for delivery in deliveries] == [0, 1]
    assert [text for text, _ in heard] == ["one", "one", "one", "two"]
    assert [at - start for _, at in heard] == pytest.approx([0, 3, 5, 5])


async def test_send_waits_while_the_outbox_is_full(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    go = trio.Event()

    async def script(peer: ServerSocket) -> None:
        await go.wait()
        await answer(peer, 0)
        await stay(peer)

    async with opened(ScriptedServer(nursery, script), outbox=2) as room:
        await room.send("one")
        await room.send("two")
        with trio.move_on_after(5) as waiting:
            await room.send("three")
        assert waiting.cancelled_caught
        go.set()
        await room.send("three")


@pytest.mark.parametrize("code", [1001, 1006, 1011, 1012, 1013])
async def test_a_temporary_close_makes_the_room_reconnect(
    autojump_clock: MockClock, nursery: trio.Nursery, code: int
) -> None:
    async def leave(peer: ServerSocket) -> None:
        await (peer.drop() if code == 1006 else peer.close(code))

    async def back(peer: ServerSocket) -> None:
        await peer.tell(MessageAdded(message(0)))
        await stay(peer)

    async with opened(ScriptedServer(nursery, leave, back), after=-1) as room:
        assert await indexes(room, 1) == [0]


@pytest.mark.parametrize("refusal_status", [500, 502, 503, 429])
async def test_a_temporary_http_status_makes_the_room_reconnect(
    autojump_clock: MockClock, nursery: trio.Nursery, refusal_status: int
) -> None:
    async with opened(ScriptedServer(nursery, refusal_status, None, stay)) as room:
        await room.wait_live()


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (401, NotAuthenticated),
        (403, NotAllowed),
        (404, NoSuchChat),
        (400, ConnectionEnded),
        (close_with(1000), ConnectionEnded),
        (close_with(4401), NotAuthenticated),
        (close_with(4403), NotAllowed),
        (close_with(4404), NoSuchChat),
        (close_with(4410), SignedOut),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\nno length", NotAuthenticated),
        (b"HTTP/1.1 403 Forb", NotAllowed),
    ],
)
async def test_a_final_close_is_a_typed_error(
    autojump_clock: MockClock, nursery: trio.Nursery, end: int, error: type[ConnectionEnded]
) -> None:
    async with opened(ScriptedServer(nursery, end)) as room:
        delivery = await room.send("hello")
        with pytest.raises(error):
            await anext(room)
        with pytest.raises(Undelivered):
            await delivery.wait()
        with pytest.raises(error):
            await room.send("again")
        with pytest.raises(error):
            await room.wait_live()


@pytest.mark.parametrize(
    "garbage", [b"", b"HTTP/1.1 101 Sw", b"SSH-2.0-x\r\n", b"\x00" * 40, b"HTTP/1.1 101 OK\r\n\r\n"]
)
async def test_an_answer_that_is_no_websocket_is_tried_again(
    autojump_clock: MockClock, nursery: trio.Nursery, garbage: bytes
) -> None:
    server = ScriptedServer(nursery, garbage, stay)
    async with opened(server) as room:
        await room.wait_live()
    assert server.dialled_at[1] - server.dialled_at[0] == pytest.approx(0.5)


async def test_a_server_that_never_answers_is_given_up_after_ten_seconds(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def mute(host: str, port: int, tls: object) -> trio.abc.Stream:
        if trio.current_time() - start < 5:
            return memory_stream_pair()[0]
        return await server.dial(host, port, None)

    server = ScriptedServer(nursery, stay)
    start = trio.current_time()
    async with open_room("http://test", CHAT.uuid, token="t", random=NoJitter(), dial=mute) as room:
        await room.wait_live()
    assert trio.current_time() - start == pytest.approx(10.5)


async def test_a_silent_server_makes_the_room_reconnect(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def hang(peer: ServerSocket) -> None:
        await trio.sleep_forever()

    server = ScriptedServer(nursery, hang, stay)
    async with opened(server) as room:
        await room.wait_live()
        await room.wait_state_change(ConnectionState.LIVE)
        await room.wait_live()
    assert server.dialled_at[1] - server.dialled_at[0] == pytest.approx(76.5, abs=1.1)


async def test_failures_back_off_to_thirty_seconds(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    server = ScriptedServer(nursery, *[None] * 9, stay)
    async with opened(server) as room:
        await room.wait_live()
    gaps = [later - earlier for earlier, later in zip(server.dialled_at, server.dialled_at[1:], strict=False)]
    assert gaps == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30])


@pytest.mark.parametrize("code", [1007, 1008, 1009])
async def test_a_message_that_breaks_the_socket_is_refused_and_not_sent_again(
    autojump_clock: MockClock, nursery: trio.Nursery, code: int
) -> None:
    async def broken(peer: ServerSocket) -> None:
        await peer.hear()
        await peer.close(code)

    async def back(peer: ServerSocket) -> None:
        assert (await answer(peer, 0)).text == "good"
        await stay(peer)

    async with opened(ScriptedServer(nursery, broken, back)) as room:
        bad, good = await room.send("bad"), await room.send("good")
        with pytest.raises(NotAdded, match=str(code)):
            await bad.wait()
        assert (await good.wait()).text == "good"


async def test_a_frame_error_that_no_frame_of_ours_caused_is_final(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with opened(ScriptedServer(nursery, close_with(1008))) as room:
        with pytest.raises(ConnectionEnded, match="1008"):
            await anext(room)


async def test_a_message_over_the_frame_limit_is_refused_before_it_is_sent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with opened(ScriptedServer(nursery, stay)) as room:
        with pytest.raises(NotAdded, match="too_long"):
            await (await room.send("x" * 65_536)).wait()


async def test_after_a_reconnect_only_the_highest_mark_is_sent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    heard: list[object] = []

    async def first(peer: ServerSocket) -> None:
        await peer.tell(*(MessageAdded(message(index)) for index in range(4)))
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        heard.extend([await peer.hear() for _ in range(3)])
        await stay(peer)

    async with opened(ScriptedServer(nursery, first, None, second), after=-1) as room:
        await indexes(room, 4)
        await room.wait_state_change(ConnectionState.LIVE)
        for index in (0, 3, 1):
            room.mark_delivered(1000 + index)
        for index in (2, 1):
            room.mark_read(1000 + index)
        await room.send("then")
        await trio.sleep(20)
    assert heard[:2] == [MarkMessageDelivered(1003), MarkMessageRead(1002)]
    assert isinstance(heard[2], SendMessage)


async def test_marks_are_sent_again_after_a_lost_socket(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    heard: list[object] = []

    async def script(peer: ServerSocket) -> None:
        heard.append(await peer.hear())
        await peer.drop()

    async with opened(ScriptedServer(nursery, script, script, stay)) as room:
        room.mark_read(5)
        await trio.sleep(20)
    assert heard == [MarkMessageRead(5), MarkMessageRead(5)]


@pytest.mark.parametrize("code", ["storage_unavailable", "overloaded", "draining"])
async def test_a_mark_that_the_server_refuses_temporarily_is_sent_again(
    code: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    heard: list[object] = []
    heard_at: list[float] = []

    async def hear(peer: ServerSocket) -> None:
        heard.append(await peer.hear())
        heard_at.append(trio.current_time())

    async def script(peer: ServerSocket) -> None:
        for _ in range(3):
            await hear(peer)
            await peer.tell(ErrorEvent(code, "", "data.message_id"))
        await hear(peer)
        await peer.tell(ErrorEvent("message_not_found", "", "data.message_id"))
        await stay(peer)

    async with opened(ScriptedServer(nursery, script)) as room:
        room.mark_read(5)
        # The reader gets only errors that it can act on.
        assert (await anext(room)) == ErrorEvent("message_not_found", "", "data.message_id")
        await trio.sleep(100)
    assert heard == [MarkMessageRead(5)] * 4
    assert [round(later - at, 3) for at, later in pairwise(heard_at)] == [0.5, 1.0, 2.0]


async def test_refused_marks_are_sent_again_one_at_a_time(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    heard: dict[object, float] = {}

    async def script(peer: ServerSocket) -> None:
        for _ in range(2):
            await peer.hear()
        await peer.tell(ErrorEvent("overloaded", "", "data.message_id"))
        for _ in range(2):
            mark = await peer.hear()
            heard[mark] = trio.current_time()
        await stay(peer)

    async with opened(ScriptedServer(nursery, script)) as room:
        room.mark_delivered(6)
        room.mark_read(5)
        await trio.sleep(20)
    assert heard == {MarkMessageDelivered(6): pytest.approx(0.5), MarkMessageRead(5): pytest.approx(1.0)}


async def test_a_resync_makes_the_room_forget_its_history_and_marks(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    heard: list[object] = []

    async def first(peer: ServerSocket) -> None:
        await presence(peer, VISITOR, OPERATOR)
        await peer.tell(*(MessageAdded(message(index, f"old {index}")) for index in range(5)))
        await peer.end_replay(4)
        assert await peer.hear() == MarkMessageRead(1004)
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        await peer.tell(ResyncRequired(CHAT.uuid, 2))
        await presence(peer, VISITOR)
        await peer.tell(*(MessageAdded(message(index, f"new {index}")) for index in range(3)))
        await peer.end_replay(2)
        await peer.tell(MessageAdded(message(3, "new 3")))
        heard.append(await peer.hear())
        await peer.drop()

    server = ScriptedServer(nursery, first, second, stay)
    async with opened(server, after=-1) as room:
        assert await indexes(room, 5) == [0, 1, 2, 3, 4]
        room.mark_read(1004)
        events: list[Event] = []
        async for event in room:
            events.append(event)
            if isinstance(event, MessageAdded) and event.message.message_index == 3:
                break
        resync = events.index(ResyncRequired(CHAT.uuid, 2))
        told = [event.message.text for event in events[resync:] if isinstance(event, MessageAdded)]
        assert told == ["new 0", "new 1", "new 2", "new 3"]
        # Presence does not depend on the history.
        assert [event.user for event in events if isinstance(event, UserDisconnected)] == [OPERATOR]
        assert not any(isinstance(event, UserConnected) for event in events[resync:])
        room.mark_delivered(1003)
        await trio.sleep(20)
        assert room.last_index == 3
    assert heard == [MarkMessageDelivered(1003)]
    assert server.resources[2].endswith("after=3")


async def test_waiting_marks_do_not_delay_messages(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def script(peer: ServerSocket) -> None:
        await peer.hear()
        await peer.tell(ErrorEvent("overloaded", "", "data.message_id"))
        await answer(peer, 0)
        assert await peer.hear() == MarkMessageDelivered(5)
        await stay(peer)

    async with opened(ScriptedServer(nursery, script)) as room:
        room.mark_delivered(5)
        await trio.sleep(0.1)
        await (await room.send("hello")).wait()
        assert trio.current_time() < 0.2
        await trio.sleep(1)


async def test_typing_is_sent_four_times_a_second_with_the_latest_text(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    heard: list[tuple[float, object]] = []

    async def script(peer: ServerSocket) -> None:
        while True:
            heard.append((trio.current_time() - start, await peer.hear()))

    start = trio.current_time()
    async with opened(ScriptedServer(nursery, script)) as room:
        for text in ("h", "he", "hel", "hell", "hello"):
            room.update_typing(text)
            await trio.sleep(0.09)
        room.stop_typing()
        await trio.sleep(1)
    assert [update for _, update in heard] == [
        UpdateTyping("h", False),
        UpdateTyping("hel", False),
        UpdateTyping("", True),
    ]


async def test_a_slow_reader_holds_the_socket_and_loses_nothing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    told = 0

    async def script(peer: ServerSocket) -> None:
        nonlocal told
        for index in range(50):
            await peer.tell(MessageAdded(message(index)))
            told = index + 1
        await stay(peer)

    async with opened(ScriptedServer(nursery, script), after=-1, inbox=2) as room:
        await room.wait_live()
        await trio.sleep(5)
        assert await indexes(room, 50) == list(range(50))
    assert told == 50


async def test_an_event_held_back_by_a_full_inbox_survives_the_loss_of_its_socket(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def first(peer: ServerSocket) -> None:
        await peer.tell(*(MessageAdded(message(index)) for index in range(3)))
        await trio.sleep(1)
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        after = int(peer.resource.partition("=")[2])
        await peer.tell(*(MessageAdded(message(index)) for index in range(after + 1, 6)))
        await stay(peer)

    async with opened(ScriptedServer(nursery, first, second), after=-1, inbox=1) as room:
        await room.wait_live()
        await trio.sleep(0.5)
        await room.send("wakes the writer, which finds the socket gone")
        await trio.sleep(2)
        assert await indexes(room, 6) == list(range(6))


async def test_after_a_reconnect_only_presence_changes_are_reported(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def first(peer: ServerSocket) -> None:
        await presence(peer, VISITOR, OPERATOR)
        await peer.end_replay()
        await peer.tell(TypingUpdated("", False, CHAT.uuid, OPERATOR))
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        await presence(peer, VISITOR)
        await peer.end_replay()
        await peer.tell(MessageAdded(message(0)))
        await stay(peer)

    seen: list[Event] = []
    async with opened(ScriptedServer(nursery, first, second), after=-1) as room:
        async for event in room:
            seen.append(event)
            if isinstance(event, MessageAdded):
                break
    assert seen[:2] == [UserConnected(VISITOR), UserConnected(OPERATOR)]
    assert seen[4:] == [
        ChatUpdated(CHAT),
        TypingUpdated("", False, CHAT.uuid, OPERATOR),
        TypingUpdated("", True, CHAT.uuid, OPERATOR),
        UserDisconnected(OPERATOR),
        MessageAdded(message(0)),
    ]


async def test_a_frame_that_is_no_event_makes_the_room_resume(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def first(peer: ServerSocket) -> None:
        await peer.socket.send_message('{"type": "message_added", "data": {}}')
        await stay(peer)

    async def second(peer: ServerSocket) -> None:
        await peer.socket.send_message('{"type": "from_the_future", "data": {}}')
        await peer.tell(MessageAdded(message(0)))
        await stay(peer)

    async with opened(ScriptedServer(nursery, first, second), after=-1) as room:
        assert await indexes(room, 1) == [0]


async def test_half_a_frame_without_the_rest_is_a_lost_socket(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def first(peer: ServerSocket) -> None:
        await peer.stream.send_all(b"\x81\x7e\x10\x00{")
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        await peer.tell(MessageAdded(message(0)))
        await stay(peer)

    async with opened(ScriptedServer(nursery, first, second), after=-1) as room:
        assert await indexes(room, 1) == [0]


async def test_an_exception_of_the_block_is_raised_unchanged(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def fail() -> None:
        async with opened(ScriptedServer(nursery, stay)) as room:
            await room.wait_live()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()


async def test_closing_stops_the_iteration_and_fails_unsent_messages(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    async with opened(ScriptedServer(nursery, stay)) as room:
        delivery = await room.send("hello")
        await room.aclose()
        await room.aclose()
        assert [event async for event in room] == []
        with pytest.raises(Undelivered):
            await delivery.wait()
        with pytest.raises(trio.ClosedResourceError):
            await room.send("again")


async def test_cancelling_leaves_an_unresponsive_server_after_a_second(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def deaf(peer: ServerSocket) -> None:
        await peer.deafen()
        await trio.sleep_forever()

    start = trio.current_time()
    with trio.move_on_after(3) as scope:
        async with opened(ScriptedServer(nursery, deaf)) as room:
            async for _ in room:
                pass
    assert scope.cancelled_caught
    assert trio.current_time() - start == pytest.approx(4)


async def test_leaving_at_any_step_of_connecting_leaks_nothing(autojump_clock: MockClock) -> None:
    # Task order is random, so every step is tried often.
    for steps in [*range(8)] * 40:
        async with trio.open_nursery() as nursery:
            async with opened(ScriptedServer(nursery, stay)):
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_a_refusal_without_a_client_id_is_for_the_message_in_flight(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def script(peer: ServerSocket) -> None:
        command = attrs.evolve(await peer.hear_message(), client_id=None)
        await peer.tell(refusal(command, RefusalCode.MALFORMED))
        await stay(peer)

    async with opened(ScriptedServer(nursery, script)) as room:
        with pytest.raises(NotAdded, match="malformed"):
            await (await room.send("hello")).wait()


async def test_an_edit_that_a_resume_repeats_is_yielded_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def first(peer: ServerSocket) -> None:
        await peer.tell(MessageUpdated(message(0, "edited")))
        await peer.drop()

    async def second(peer: ServerSocket) -> None:
        await peer.tell(MessageUpdated(message(0, "edited")), MessageUpdated(message(0, "again")))
        await stay(peer)

    async with opened(ScriptedServer(nursery, first, second), after=0) as room:
        events = [await anext(room), await anext(room)]
    assert events == [MessageUpdated(message(0, "edited")), MessageUpdated(message(0, "again"))]


async def test_sending_replaces_the_typing_that_waits(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    heard: list[object] = []

    async def script(peer: ServerSocket) -> None:
        while True:
            heard.append(await peer.hear())

    async with opened(ScriptedServer(nursery, script)) as room:
        room.update_typing("hel")
        await trio.sleep(0.1)
        room.update_typing("hell")
        delivery = await room.send("hello")
        await trio.sleep(2)
    assert heard == [UpdateTyping("hel", False), SendMessage("hello", (), delivery.client_id)]


async def test_input_before_a_close_is_read_although_writing_failed(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def script(peer: ServerSocket) -> None:
        await peer.tell(*(MessageAdded(message(index)) for index in range(3)))
        await peer.close(4410)

    async with opened(ScriptedServer(nursery, script), after=-1, inbox=1) as room:
        await trio.sleep(1)
        room.mark_read(1000)
        await trio.sleep(1)
        assert await indexes(room, 3) == [0, 1, 2]
        with pytest.raises(SignedOut):
            await anext(room)


async def test_a_mark_that_breaks_the_socket_is_not_sent_again(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    heard: list[object] = []

    async def broken(peer: ServerSocket) -> None:
        await peer.hear()
        await peer.close(1008)

    async def back(peer: ServerSocket) -> None:
        heard.append(await answer(peer, 0))
        await stay(peer)

    async with opened(ScriptedServer(nursery, broken, back)) as room:
        room.mark_read(5)
        await room.wait_live()
        await room.wait_state_change(ConnectionState.LIVE)
        await room.wait_live()
        await (await room.send("hello")).wait()
    assert len(heard) == 1


async def test_a_server_with_only_the_strict_profile_is_refused(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with opened(ScriptedServer(nursery, stay, strict=True)) as room:
        with pytest.raises(ConnectionEnded, match=r"does not support actorchat\.v1\.ext"):
            await anext(room)


async def test_a_rejection_sets_the_delay_before_the_next_attempt(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    server = ScriptedServer(nursery, busy, stay)
    async with opened(server) as room:
        await room.wait_live()
    assert server.dialled_at[1] - server.dialled_at[0] == pytest.approx(7)


async def test_a_socket_that_worked_resets_the_backoff(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def live(peer: ServerSocket) -> None:
        await trio.sleep(5)
        await peer.close(1012)

    server = ScriptedServer(nursery, None, None, None, live, stay)
    async with opened(server) as room:
        await room.wait_live()
        await room.wait_state_change(ConnectionState.LIVE)
        await room.wait_live()
    assert server.dialled_at[4] - server.dialled_at[3] == pytest.approx(5.5)


async def test_without_after_a_socket_lost_before_any_message_replays_the_chat(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def leave(peer: ServerSocket) -> None:
        await peer.drop()

    server = ScriptedServer(nursery, None, leave, stay)
    async with opened(server) as room:
        await room.wait_live()
        await room.wait_state_change(ConnectionState.LIVE)
        await room.wait_live()
    assert [resource.partition("?")[2] for resource in server.resources] == ["", "after=-1"]

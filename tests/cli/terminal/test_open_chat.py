from collections.abc import Callable
from uuid import UUID

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.open_chat import BackToList, ChatExit, OpenChat, QuitProgram
from actorchat.cli.terminal.ui import Action, Edited, Entered, Left, Scene
from actorchat.client import ApiError, ApiUnreachable, ConnectionEnded, open_room
from actorchat.protocol.commands import MarkMessageDelivered, MarkMessageRead, UpdateTyping
from actorchat.protocol.entities import Chat
from actorchat.protocol.events import MessageAdded, RefusalCode, TypingUpdated
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
    refusal,
)

LEAVE = Left(immediately=True)


class FakeUi:
    """A UI whose user does one action of the test a second; None waits for ever."""

    reading_seconds = 1.0

    def __init__(self, *actions: Action | None, scripted: bool = False) -> None:
        self.scripted = scripted
        self._actions = list(actions)
        self.scenes: list[Scene] = []
        self.lines: list[str] = []
        self.restored_lines: list[str] = []

    def show(self, scene: Scene) -> None:
        self.scenes.append(scene)

    def print_line(self, line: str) -> None:
        self.lines.append(line)

    def restore_input(self, line: str) -> None:
        self.restored_lines.append(line)

    async def next_action(self) -> Action:
        await trio.sleep(1)
        action = self._actions.pop(0) if self._actions else LEAVE
        return action if action is not None else await trio.sleep_forever()


@attrs.define
class FakeApi:
    """Records its calls; raises `fault` when a chat is accepted or a note is sent."""

    calls: list[tuple[object, ...]] = attrs.field(factory=list)
    fault: ApiError | ApiUnreachable | None = None

    async def transfer(self, chat: UUID, operator_id: int) -> Chat:
        await trio.lowlevel.checkpoint()
        self.calls.append(("transfer", operator_id))
        return CHAT

    async def close(self, chat: UUID) -> Chat:
        await trio.lowlevel.checkpoint()
        self.calls.append(("close",))
        return CHAT

    reopen = return_to_queue = close

    async def add_note(self, chat: UUID, text: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault
        self.calls.append(("note", text))

    async def accept(self, chat: UUID) -> Chat:
        await trio.lowlevel.checkpoint()
        raise ApiError(409, "not_owner", "Ivan has it")


async def converse(
    nursery: trio.Nursery,
    ui: FakeUi,
    *scripts: Script | int,
    me: Callable[[], ChatView] = lambda: ChatView(OPERATOR, CHAT),
    api: FakeApi | None = None,
    typing: TypingUpdated | None = None,
) -> ChatExit:
    dial = ScriptedServer(nursery, *scripts).dial
    async with open_room("http://test", CHAT.uuid, token="t", after=-1, random=NoJitter(), dial=dial) as room:
        # The fake implements only the calls that `OpenChat` uses.
        open_chat = OpenChat(ui, api or FakeApi(), room, me())  # type: ignore[arg-type]
        if typing is not None:
            open_chat.show_typing(typing)
        return await open_chat.run()


async def stay(peer: ServerSocket) -> None:
    await trio.sleep(60)


async def test_a_typed_line_is_sent_and_shown_as_stored(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def script(peer: ServerSocket) -> None:
        await answer(peer, 0)
        await stay(peer)

    ui = FakeUi(Entered("hello"), Left(immediately=False))
    assert await converse(nursery, ui, script, me=lambda: ChatView(VISITOR, CHAT)) == QuitProgram()
    assert ui.lines[-1] == "[0] you: hello"


async def test_a_script_that_ends_waits_for_its_messages(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def slow(peer: ServerSocket) -> None:
        await trio.sleep(30)
        await answer(peer, 0)
        await stay(peer)

    ui = FakeUi(Entered("hello"), Left(immediately=False))
    await converse(nursery, ui, slow, me=lambda: ChatView(VISITOR, CHAT))
    assert "[0] you: hello" in ui.lines


@pytest.mark.parametrize(("scripted", "stored"), [(True, True), (False, False)])
async def test_a_scripts_command_waits_for_earlier_messages(
    autojump_clock: MockClock, nursery: trio.Nursery, scripted: bool, stored: bool
) -> None:
    async def slow(peer: ServerSocket) -> None:
        await trio.sleep(30)
        await answer(peer, 0)
        await stay(peer)

    ui = FakeUi(Entered("hello"), Entered("/accept"), Left(immediately=False), scripted=scripted)
    await converse(nursery, ui, slow)
    refused = ui.lines.index("# not_owner: Ivan has it")
    assert any("hello" in line for line in ui.lines[:refused]) is stored


async def test_leaving_waits_two_seconds_for_unsent_messages(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    start = trio.current_time()
    await converse(nursery, FakeUi(Entered("hello")), stay)
    assert trio.current_time() - start == pytest.approx(4, abs=0.1)


async def test_a_message_is_marked_delivered_at_once_and_read_once_it_was_shown(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    heard: list[tuple[object, float]] = []

    async def script(peer: ServerSocket) -> None:
        await peer.tell(*(MessageAdded(message(index, user=VISITOR)) for index in range(3)))
        start = trio.current_time()
        while True:
            heard.append((await peer.hear(), round(trio.current_time() - start, 3)))

    await converse(nursery, FakeUi(Entered(""), Entered(""), Entered("")), script)
    assert heard[-2:] == [(MarkMessageDelivered(1002), 0), (MarkMessageRead(1002), 1)]


async def test_a_refusal_is_shown_beside_the_text(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def script(peer: ServerSocket) -> None:
        await peer.tell(refusal(await peer.hear_message(), RefusalCode.CHAT_CLOSED))
        await stay(peer)

    ui = FakeUi(Entered("hello"))
    await converse(nursery, ui, script)
    assert ui.lines[-1] == "# not sent: chat_closed: no: 'hello'"


@pytest.mark.parametrize("typed", ["hello", "//quit", "x" * 5000])
async def test_a_text_that_was_refused_can_be_typed_again(
    autojump_clock: MockClock, nursery: trio.Nursery, typed: str
) -> None:
    async def script(peer: ServerSocket) -> None:
        await peer.tell(refusal(await peer.hear_message(), RefusalCode.CHAT_CLOSED))
        await stay(peer)

    ui = FakeUi(Entered(typed))
    await converse(nursery, ui, script)
    assert ui.restored_lines == [typed]


async def test_refused_messages_are_counted_and_quoted_briefly(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def script(peer: ServerSocket) -> None:
        await peer.tell(refusal(await peer.hear_message(), RefusalCode.TOO_LONG))
        await stay(peer)

    ui = FakeUi(Entered("x" * 5000), Entered("/nonsense"), Entered("/accept"))
    room = open_room("http://test", CHAT.uuid, token="t", after=-1, dial=ScriptedServer(nursery, script).dial)
    async with room as connection:
        # The same as in `converse`.
        open_chat = OpenChat(ui, FakeApi(), connection, ChatView(OPERATOR, CHAT))  # type: ignore[arg-type]
        await open_chat.run()
    assert open_chat.failed_lines == 3
    assert f"# not sent: too_long: no: '{'x' * 59}…'" in ui.lines


async def test_commands_go_to_the_http_side_and_refusals_are_one_line(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    api = FakeApi()
    lines = ("/note hm", "/transfer 8", "/close", "/accept", "/nonsense")
    ui = FakeUi(*(Entered(line) for line in lines))
    await converse(nursery, ui, stay, api=api)
    assert api.calls == [("note", "hm"), ("transfer", 8), ("close",)]
    assert ui.lines[-2:] == [
        "# not_owner: Ivan has it",
        "# there is no command /nonsense here; /help lists the commands",
    ]


@pytest.mark.parametrize(
    ("fault", "output"),
    [
        (ApiUnreachable("down", asked=False), "the note was not sent: down"),
        (ApiUnreachable("slow"), "the note was perhaps not sent: slow"),
        (ApiError(409, "conflict", "no"), "the note was not sent: conflict: no"),
    ],
)
async def test_a_note_that_was_not_sent_can_be_typed_again(
    autojump_clock: MockClock, nursery: trio.Nursery, fault: ApiError | ApiUnreachable, output: str
) -> None:
    ui = FakeUi(Entered("/note call back"))
    await converse(nursery, ui, stay, api=FakeApi(fault=fault))
    assert ui.lines[-1] == f"# {output}"
    assert ui.restored_lines == ["/note call back"]


async def test_typing_is_sent_but_commands_are_not(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    heard: list[object] = []

    async def script(peer: ServerSocket) -> None:
        while True:
            heard.append(await peer.hear())

    edits = ("h", "he", "", "/", "/no", "")
    await converse(nursery, FakeUi(*(Edited(text) for text in edits)), script)
    assert heard == [UpdateTyping("h", False), UpdateTyping("he", False), UpdateTyping("", True)]


async def test_returning_to_the_list_does_not_end_the_program(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    for line, departure in (("/back", BackToList()), ("/open 3", BackToList(3)), ("/quit", QuitProgram())):
        assert await converse(nursery, FakeUi(Entered(line)), stay) == departure


async def test_the_visitors_text_comes_from_the_feed(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    ui = FakeUi()
    other_chats = TypingUpdated("no", False, UUID(int=1), VISITOR)
    await converse(nursery, ui, stay, typing=TypingUpdated("how mu", False, CHAT.uuid, VISITOR))
    await converse(nursery, ui, stay, typing=other_chats)
    assert [line for line in ui.lines if "typing" in line] == ["# visitor 0497 is typing: how mu"]


async def test_the_end_of_the_room_is_the_end_of_the_conversation(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def signed_out(peer: ServerSocket) -> None:
        await peer.close(4410)

    with pytest.raises(ConnectionEnded, match="4410"):
        await converse(nursery, FakeUi(None), signed_out)


async def test_the_connections_state_is_shown(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def leave(peer: ServerSocket) -> None:
        await wait_all_tasks_blocked()
        await peer.close(1012)

    ui = FakeUi(*[Entered("")] * 3)
    await converse(nursery, ui, leave, stay)
    assert ui.lines == [
        "# connecting",
        "# live",
        "# waiting: the connection was lost (1012)",
        "# connecting: the connection was lost (1012)",
        "# live",
    ]

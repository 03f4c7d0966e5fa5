from uuid import UUID

import attrs
import pytest

from actorchat.chat.model import PersonRecord, Policy, Stage, endless
from actorchat.chat.operations import Changed, ReturnChat, TransferChat
from actorchat.chat.rules import Situation, decide
from actorchat.cli.terminal import drawing
from actorchat.cli.terminal.chat_view import MAX_ENTRIES, ChatView
from actorchat.cli.terminal.desk_view import DeskView
from actorchat.cli.terminal.telling import tell_event, tell_item
from actorchat.client import ConnectionState, NotAdded, SnapshotBegins
from actorchat.client.delivery import Delivery
from actorchat.protocol.entities import Chat, ChatStatus, Message, MessageStatus, MessageType, Role, User
from actorchat.protocol.events import (
    ChatUpdated,
    Event,
    GlobalUpdated,
    MessageAdded,
    MessageUpdated,
    OperatorUpdated,
    Receipts,
    TypingUpdated,
    UserConnected,
    UserDisconnected,
)
from tests.chat.people import OLGA, PETR
from tests.chat.people import chat as stored_chat
from tests.client.peers import CHAT, OPERATOR, VISITOR, message

VISITORS_VIEW = ChatView(VISITOR, CHAT)
OPERATORS_VIEW = ChatView(OPERATOR, CHAT)
OTHER_CHAT = attrs.evolve(CHAT, uuid=UUID(int=7), status=ChatStatus.NEW, operator_user=None)


def shown(view: ChatView) -> list[str]:
    return ["".join(text for _, text in line) for line in drawing.chat_lines(view)]


def told(view: ChatView, *events: Event) -> list[str]:
    lines = []
    for event in events:
        lines.extend(tell_event(view, event))
        view = view.after(event)
    return lines


def after(view: ChatView, *events: Event) -> ChatView:
    for event in events:
        view = view.after(event)
    return view


def receipts(role: Role, delivered: int, read: int) -> Receipts:
    return Receipts(CHAT.uuid, role, delivered, read)


def test_ticks_go_from_stored_over_delivered_to_read() -> None:
    view = after(VISITORS_VIEW, MessageAdded(message(0, "hi", user=VISITOR)))
    ticks = [drawing.chat_lines(view)[0][-1]]
    for watermarks in ((0, -1), (0, 0)):
        view = view.after(receipts(Role.OPERATOR, *watermarks))
        ticks.append(drawing.chat_lines(view)[0][-1])
    assert ticks == [("class:tick", "✓"), ("class:tick", "✓✓"), ("class:tick.read", "✓✓ read")]


def test_receipts_of_ones_own_side_and_lower_ones_change_no_tick() -> None:
    own = message(0, user=VISITOR)
    view = after(VISITORS_VIEW, MessageAdded(own), receipts(Role.USER, 9, 9))
    assert view.status_of(own) is MessageStatus.NEW
    view = after(view, receipts(Role.OPERATOR, 0, 0), receipts(Role.OPERATOR, -1, -1))
    assert view.status_of(own) is MessageStatus.READ


def test_a_status_that_came_with_the_message_counts_too() -> None:
    own = attrs.evolve(message(0, user=VISITOR), status=MessageStatus.DELIVERED)
    assert VISITORS_VIEW.status_of(own) is MessageStatus.DELIVERED


def test_a_message_on_its_way_is_shown_and_then_replaced_by_the_stored_one() -> None:
    view = VISITORS_VIEW.sent(Delivery("c1", "hello", ()))
    assert shown(view) == ["--:-- you: hello …"]
    view = after(view, MessageAdded(message(0, "meanwhile")), MessageAdded(message(1, "hello", user=VISITOR), "c1"))
    assert [line.partition(" ")[2] for line in shown(view)] == ["Olga: meanwhile", "you: hello ✓"]
    assert not view.unsent()


@pytest.mark.parametrize("announced_first", [True, False])
def test_a_stored_message_announced_without_its_name_is_shown_once(announced_first: bool) -> None:
    view = VISITORS_VIEW.sent(Delivery("c1", "hello", ()))
    stored = message(0, "hello", user=VISITOR)
    view = (
        view.after(MessageAdded(stored)).stored("c1", stored)
        if announced_first
        else view.stored("c1", stored).after(MessageAdded(stored))
    )
    assert len(shown(view)) == 1
    assert not view.unsent()


def test_a_refused_message_stays_with_the_reason() -> None:
    view = VISITORS_VIEW.sent(Delivery("c1", "hello", ()))
    view = view.failed(NotAdded("chat_closed", "", text="hello", client_id="c1"))
    view = view.after(MessageAdded(message(0, "later")))
    assert shown(view)[0] == "--:-- you: hello ✗ not sent: chat closed"
    assert not view.unsent()


def test_a_long_refused_message_is_quoted_in_short() -> None:
    view = VISITORS_VIEW.sent(Delivery("c1", "x" * 5000, ()))
    assert len(shown(view)[0]) > 5000
    view = view.failed(NotAdded("too_long", "", text="", client_id="c1"))
    assert shown(view) == [f"--:-- you: {'x' * 59}… ✗ not sent: too long"]


def test_an_edited_message_changes_in_its_place() -> None:
    view = after(VISITORS_VIEW, MessageAdded(message(0, "helo")), MessageAdded(message(1, "b")))
    view = view.after(MessageUpdated(message(0, "hello")))
    assert [line.partition(": ")[2] for line in shown(view)] == ["hello", "b"]


def test_a_screen_keeps_only_the_newest_lines() -> None:
    view = after(VISITORS_VIEW, *(MessageAdded(message(index)) for index in range(MAX_ENTRIES + 5)))
    assert len(view.entries) == MAX_ENTRIES
    assert shown(view)[-1].endswith(f"message {MAX_ENTRIES + 4}")


def test_the_room_tells_that_somebody_types_and_the_feed_what() -> None:
    view = after(OPERATORS_VIEW, TypingUpdated("", False, CHAT.uuid, VISITOR))
    assert view.typing == ""
    view = view.after(TypingUpdated("how mu", False, CHAT.uuid, VISITOR))
    view = view.after(TypingUpdated("", False, CHAT.uuid, VISITOR))
    assert drawing.typing_line(view) == [("class:typing", "the visitor is writing: how mu…")]
    assert view.after(TypingUpdated("", True, CHAT.uuid, VISITOR)).typing is None
    assert view.after(MessageAdded(message(0, user=VISITOR))).typing is None
    assert OPERATORS_VIEW.after(TypingUpdated("x", False, CHAT.uuid, OPERATOR)).typing is None


def test_the_title_says_who_is_here_and_how_the_chat_stands() -> None:
    view = after(VISITORS_VIEW, UserConnected(VISITOR), UserConnected(OPERATOR))
    assert drawing.chat_title(view) == "with Olga · open · here: Olga"
    view = after(view, UserDisconnected(OPERATOR), ChatUpdated(OTHER_CHAT))
    assert drawing.chat_title(view) == "waiting for an operator · new"


def test_notes_are_marked_for_operators_and_carry_no_tick() -> None:
    note = attrs.evolve(message(0, "hm"), type=MessageType.SYSTEM)
    assert shown(OPERATORS_VIEW.after(MessageAdded(note)))[0].endswith("you (note): hm")


def system(role: Role, text: str, user: User | None) -> Message:
    return attrs.evolve(message(0, text), type=MessageType.SYSTEM, type_role=role, user=user)


@pytest.mark.parametrize(
    ("view", "event", "line"),
    [
        (VISITORS_VIEW, system(Role.USER, "The chat was closed.", OPERATOR), "— The chat was closed. (Olga)"),
        (VISITORS_VIEW, system(Role.USER, "The chat was closed.", VISITOR), "— The chat was closed. (you)"),
        (VISITORS_VIEW, system(Role.USER, "The chat was closed.", None), "— The chat was closed."),
        (OPERATORS_VIEW, system(Role.OPERATOR, "It was returned.", None), "— It was returned."),
        (OPERATORS_VIEW, system(Role.OPERATOR, "hm", OPERATOR), "you (note): hm"),
    ],
)
def test_only_what_people_wrote_looks_spoken(view: ChatView, event: Message, line: str) -> None:
    assert told(view, MessageAdded(event)) == [f"[0] {line}"]
    assert shown(view.after(MessageAdded(event)))[0].partition(" ")[2] == line


@pytest.mark.parametrize("operation", [TransferChat(CHAT.uuid, OLGA, PETR.id), ReturnChat(CHAT.uuid, OLGA)])
def test_what_the_server_tells_of_a_hand_over_is_no_note(operation: TransferChat | ReturnChat) -> None:
    target = PersonRecord(PETR, endless({"lk"}))
    situation = Situation(policy=Policy(), now=1, message_id=1, target=target)
    decision = decide(stored_chat(Stage.OPEN, operator=OLGA), operation, situation)
    assert isinstance(decision, Changed)
    (text,) = (each.text for each in decision.messages if each.type_role is Role.OPERATOR)
    assert told(OPERATORS_VIEW, MessageAdded(system(Role.OPERATOR, text, OPERATOR))) == [f"[0] — {text} (you)"]


def test_the_newest_message_to_mark_is_the_other_sides() -> None:
    note = attrs.evolve(message(2), type=MessageType.SYSTEM, type_role=Role.USER)
    view = after(VISITORS_VIEW, *(MessageAdded(each) for each in (message(0), message(1, user=VISITOR), note)))
    newest = view.newest_from_other()
    assert newest is not None
    assert newest.message_index == 0


def test_each_event_is_told_once_on_one_line() -> None:
    closed = attrs.evolve(CHAT, status=ChatStatus.CLOSED)
    assert told(
        VISITORS_VIEW,
        UserConnected(VISITOR),
        UserConnected(OPERATOR),
        MessageAdded(message(0, "two\nlines")),
        MessageAdded(message(1, "mine", user=VISITOR), "c1"),
        receipts(Role.OPERATOR, 1, -1),
        receipts(Role.OPERATOR, 1, 1),
        receipts(Role.OPERATOR, 1, 1),
        TypingUpdated("", False, CHAT.uuid, OPERATOR),
        TypingUpdated("", False, CHAT.uuid, OPERATOR),
        TypingUpdated("", True, CHAT.uuid, OPERATOR),
        ChatUpdated(closed),
        ChatUpdated(closed),
        ChatUpdated(attrs.evolve(CHAT, operator_user=None, status=ChatStatus.NEW)),
    ) == [
        "# Olga is here",
        "[0] Olga: two ⏎ lines",
        "[1] you: mine",
        "# delivered up to 1",
        "# read up to 1",
        "# Olga is writing",
        "# Olga stopped writing",
        "# the chat is closed",
        "# the chat is new",
        "# nobody has the chat",
    ]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ConnectionState.LIVE, ""),
        (ConnectionState.CONNECTING, "connecting: lost…"),
        (ConnectionState.WAITING, "not connected: lost; trying again"),
        (ConnectionState.CLOSED, "closed"),
    ],
)
def test_the_connection_is_shown_unless_all_is_well(state: ConnectionState, text: str) -> None:
    assert "".join(part for _, part in drawing.connection_line(state, "lost")) == text


def desk(*chats: Chat) -> DeskView:
    view = DeskView().after(SnapshotBegins())
    for chat in chats:
        view = view.after(ChatUpdated(chat))
    return view


def rows(view: DeskView) -> list[str]:
    return ["".join(text for _, text in line).strip() for line in drawing.desk_lines(view)]


def test_the_list_shows_new_chats_first_with_what_is_unread_and_typed() -> None:
    view = desk(CHAT, OTHER_CHAT)
    view = view.after(MessageAdded(attrs.evolve(message(0, "help", user=VISITOR), chat=OTHER_CHAT)))
    assert rows(view) == ["2  new     visitor 0497  1 unread  help", "1  open    visitor 0497  [Olga]"]
    view = view.after(TypingUpdated("me pl", False, OTHER_CHAT.uuid, VISITOR))
    assert rows(view)[0].endswith("is writing: me pl")
    view = view.after(TypingUpdated("", True, OTHER_CHAT.uuid, VISITOR)).opened(OTHER_CHAT.uuid)
    assert rows(view)[0] == "2  new     visitor 0497  help"


def test_a_chat_keeps_its_number_over_reconnects_and_closed_ones_go() -> None:
    view = desk(CHAT, OTHER_CHAT)
    again = view.after(SnapshotBegins()).after(ChatUpdated(OTHER_CHAT))
    assert rows(again) == ["2  new     visitor 0497"]
    assert again.find(1) is None


def test_the_chat_on_the_screen_has_nothing_unread() -> None:
    view = desk(CHAT).after(MessageAdded(message(0, user=VISITOR)), shown=CHAT.uuid)
    assert view.rows[CHAT.uuid].unread == 0


def test_a_list_that_never_was_connected_claims_nothing() -> None:
    view = DeskView().connected(ConnectionState.WAITING, "cannot connect to x:1: connection refused")
    assert drawing.desk_title(view) == "nothing is known yet"
    assert rows(view) == []
    assert rows(view.connected(ConnectionState.LIVE, "")) == ["no chats yet"]


def test_the_desks_title_tells_who_is_there_and_what_waits() -> None:
    view = desk().after(OperatorUpdated(OPERATOR, True, 1, 2)).after(GlobalUpdated(3))
    view = view.after(OperatorUpdated(User(8, Role.OPERATOR), False, 0, 0))
    assert drawing.desk_title(view) == "3 unread chats · operators: Olga (7: 1 new, 2 open)"


def test_the_list_says_what_to_type_as_soon_as_there_is_a_chat() -> None:
    view = DeskView().connected(ConnectionState.LIVE, "")
    assert drawing.desk_hint(view) == []
    view = view.after(ChatUpdated(OTHER_CHAT)).after(ChatUpdated(CHAT)).after(MessageAdded(message(0, user=VISITOR)))
    assert drawing.desk_hint(view) == [("class:notice", "type a chat's number to open it: 1 and Enter")]


def test_the_feed_is_told_by_rows_that_changed() -> None:
    view = desk(CHAT)
    assert tell_item(view, ChatUpdated(CHAT)) == []
    assert tell_item(view, GlobalUpdated(1)) == []
    assert tell_item(view, ChatUpdated(OTHER_CHAT)) == ["#   2  new     visitor 0497"]
    assert tell_item(view, MessageAdded(message(0, "help", user=VISITOR))) == [
        "#   1  open    visitor 0497  1 unread  [Olga]  help"
    ]

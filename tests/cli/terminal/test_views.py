from uuid import UUID

import attrs
import pytest
from prompt_toolkit.utils import get_cwidth

from actorchat.chat.model import PersonRecord, Policy, Stage, endless
from actorchat.chat.operations import Changed, ReturnChat, TransferChat
from actorchat.chat.rules import DecisionContext, decide
from actorchat.cli.terminal import drawing
from actorchat.cli.terminal.chat_list_view import ChatListView
from actorchat.cli.terminal.chat_view import MAX_ENTRIES, OTHER_HISTORY, ChatView
from actorchat.cli.terminal.event_lines import describe_event, describe_item
from actorchat.cli.text import clean
from actorchat.client import ConnectionState, NotAdded, SnapshotBegins
from actorchat.client.delivery import Delivery
from actorchat.protocol.entities import (
    Attachment,
    AttachmentType,
    Chat,
    ChatStatus,
    Message,
    MessageStatus,
    MessageType,
    Role,
    User,
)
from actorchat.protocol.events import (
    ChatUpdated,
    ErrorEvent,
    Event,
    GlobalUpdated,
    MessageAdded,
    MessageUpdated,
    OperatorUpdated,
    Receipts,
    ResyncRequired,
    TypingUpdated,
    UserConnected,
    UserDisconnected,
)
from tests.chat.people import OLGA, PETR
from tests.chat.people import chat as stored_chat
from tests.client.scripted_server import CHAT, OPERATOR, VISITOR, message

VISITORS_VIEW = ChatView(VISITOR, CHAT, connection=ConnectionState.LIVE)
OPERATORS_VIEW = ChatView(OPERATOR, CHAT, connection=ConnectionState.LIVE)
OTHER_CHAT = attrs.evolve(CHAT, uuid=UUID(int=7), status=ChatStatus.NEW, operator_user=None)


def shown(view: ChatView) -> list[str]:
    return ["".join(text for _, text in line) for line in drawing.chat_lines(view)]


def printed(view: ChatView, *events: Event) -> list[str]:
    lines = []
    for event in events:
        lines.extend(describe_event(view, event))
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


def test_a_resync_replaces_the_history_on_the_screen() -> None:
    view = VISITORS_VIEW.with_pending(Delivery("c1", "on its way", ()))
    view = after(view, MessageAdded(message(0, "old")), receipts(Role.OPERATOR, 9, 9))
    resync = ResyncRequired(CHAT.uuid, 0)
    assert printed(view, resync, MessageAdded(message(0, "new"))) == [f"# {OTHER_HISTORY}", "[0] Olga: new"]
    view = after(view, resync, MessageAdded(message(0, "new", user=VISITOR)))
    assert [line.split(" ", 1)[-1].strip() for line in shown(view)] == [
        OTHER_HISTORY,
        "you: new ✓",
        "you: on its way …",
    ]


def test_a_message_on_its_way_is_shown_and_then_replaced_by_the_stored_one() -> None:
    view = VISITORS_VIEW.with_pending(Delivery("c1", "hello", ()))
    assert shown(view) == ["--:-- you: hello …"]
    view = after(view, MessageAdded(message(0, "meanwhile")), MessageAdded(message(1, "hello", user=VISITOR), "c1"))
    assert [line.partition(" ")[2] for line in shown(view)] == ["Olga: meanwhile", "you: hello ✓"]
    assert not view.unconfirmed_texts()


@pytest.mark.parametrize("announced_first", [True, False])
def test_a_stored_message_without_its_client_id_is_shown_once(announced_first: bool) -> None:
    view = VISITORS_VIEW.with_pending(Delivery("c1", "hello", ()))
    stored = message(0, "hello", user=VISITOR)
    view = (
        view.after(MessageAdded(stored)).with_stored("c1", stored)
        if announced_first
        else view.with_stored("c1", stored).after(MessageAdded(stored))
    )
    assert len(shown(view)) == 1
    assert not view.unconfirmed_texts()


def test_a_refused_message_stays_with_the_reason() -> None:
    view = VISITORS_VIEW.with_pending(Delivery("c1", "hello", ()))
    view = view.with_failure(NotAdded("chat_closed", "", text="hello", client_id="c1"))
    view = view.after(MessageAdded(message(0, "later")))
    assert shown(view)[0] == "--:-- you: hello ✗ not sent: chat closed"
    assert not view.unconfirmed_texts()


def test_a_long_refused_message_is_quoted_in_short() -> None:
    view = VISITORS_VIEW.with_pending(Delivery("c1", "x" * 5000, ()))
    assert len(shown(view)[0]) > 5000
    view = view.with_failure(NotAdded("too_long", "", text="", client_id="c1"))
    assert shown(view) == [f"--:-- you: {'x' * 59}… ✗ not sent: too long"]


def test_an_edited_message_changes_in_its_place() -> None:
    view = after(VISITORS_VIEW, MessageAdded(message(0, "helo")), MessageAdded(message(1, "b")))
    view = view.after(MessageUpdated(message(0, "hello")))
    assert [line.partition(": ")[2] for line in shown(view)] == ["hello", "b"]


def test_a_screen_keeps_only_the_newest_lines() -> None:
    view = after(VISITORS_VIEW, *(MessageAdded(message(index)) for index in range(MAX_ENTRIES + 5)))
    assert len(view.entries) == MAX_ENTRIES
    assert shown(view)[-1].endswith(f"message {MAX_ENTRIES + 4}")


def test_a_room_shows_who_types_and_the_feed_shows_the_text() -> None:
    view = after(OPERATORS_VIEW, TypingUpdated("", False, CHAT.uuid, VISITOR))
    assert view.typing == ""
    view = view.after(TypingUpdated("how mu", False, CHAT.uuid, VISITOR))
    view = view.after(TypingUpdated("", False, CHAT.uuid, VISITOR))
    assert drawing.typing_line(view) == [("class:typing", "the visitor is typing: how mu…")]
    assert view.after(TypingUpdated("", True, CHAT.uuid, VISITOR)).typing is None
    assert view.after(MessageAdded(message(0, user=VISITOR))).typing is None
    assert OPERATORS_VIEW.after(TypingUpdated("x", False, CHAT.uuid, OPERATOR)).typing is None


def test_the_title_shows_present_users_and_the_chats_status() -> None:
    view = after(VISITORS_VIEW, UserConnected(VISITOR), UserConnected(OPERATOR))
    assert drawing.chat_title(view) == "with Olga · open · online: Olga"
    view = after(view, UserDisconnected(OPERATOR), ChatUpdated(OTHER_CHAT))
    assert drawing.chat_title(view) == "waiting for an operator · new"


@pytest.mark.parametrize(
    ("state", "reason", "word"),
    [
        (ConnectionState.CONNECTING, "", "connecting"),
        (ConnectionState.CONNECTING, "lost", "reconnecting"),
        (ConnectionState.WAITING, "lost", "disconnected"),
        (ConnectionState.CLOSED, "", "disconnected"),
    ],
)
def test_without_a_connection_the_title_shows_no_status(state: ConnectionState, reason: str, word: str) -> None:
    view = after(VISITORS_VIEW, UserConnected(OPERATOR)).with_connection(state, reason)
    assert drawing.chat_title(view) == f"with Olga · {word}"
    list_view = chat_list(CHAT).after(OperatorUpdated(OPERATOR, True, 1, 2)).with_connection(state, reason)
    assert drawing.chat_list_title(list_view) == f"{word} · the list may be out of date"


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
def test_only_messages_of_people_look_like_speech(view: ChatView, event: Message, line: str) -> None:
    assert printed(view, MessageAdded(event)) == [f"[0] {line}"]
    assert shown(view.after(MessageAdded(event)))[0].partition(" ")[2] == line


@pytest.mark.parametrize("operation", [TransferChat(CHAT.uuid, OLGA, PETR.id), ReturnChat(CHAT.uuid, OLGA)])
def test_a_servers_message_about_a_transfer_is_no_note(operation: TransferChat | ReturnChat) -> None:
    target = PersonRecord(PETR, endless({"lk"}))
    context = DecisionContext(policy=Policy(), now=1, message_id=1, target=target)
    decision = decide(stored_chat(Stage.OPEN, operator=OLGA), operation, context)
    assert isinstance(decision, Changed)
    (text,) = (each.text for each in decision.messages if each.type_role is Role.OPERATOR)
    assert printed(OPERATORS_VIEW, MessageAdded(system(Role.OPERATOR, text, OPERATOR))) == [f"[0] — {text} (you)"]


def test_the_newest_message_to_mark_is_the_other_sides() -> None:
    note = attrs.evolve(message(2), type=MessageType.SYSTEM, type_role=Role.USER)
    view = after(VISITORS_VIEW, *(MessageAdded(each) for each in (message(0), message(1, user=VISITOR), note)))
    newest = view.newest_from_other()
    assert newest is not None
    assert newest.message_index == 0


def test_each_event_is_printed_once_on_one_line() -> None:
    closed = attrs.evolve(CHAT, status=ChatStatus.CLOSED)
    assert printed(
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
        "# Olga is online",
        "[0] Olga: two ⏎ lines",
        "[1] you: mine",
        "# delivered up to 1",
        "# read up to 1",
        "# Olga is typing",
        "# Olga stopped typing",
        "# the chat is closed",
        "# the chat is new",
        "# the chat is unassigned",
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


def chat_list(*chats: Chat) -> ChatListView:
    view = ChatListView().with_connection(ConnectionState.LIVE, "").after(SnapshotBegins())
    for chat in chats:
        view = view.after(ChatUpdated(chat))
    return view


def rows(view: ChatListView) -> list[str]:
    return ["".join(text for _, text in line).strip() for line in drawing.chat_list_lines(view)]


def test_the_list_shows_new_chats_first_with_what_is_unread_and_typed() -> None:
    view = chat_list(CHAT, OTHER_CHAT)
    view = view.after(MessageAdded(attrs.evolve(message(0, "help", user=VISITOR), chat=OTHER_CHAT)))
    assert rows(view) == ["2  new     visitor 0497  1 unread  help", "1  open    visitor 0497  [Olga]"]
    view = view.after(TypingUpdated("me pl", False, OTHER_CHAT.uuid, VISITOR))
    assert rows(view)[0].endswith("is typing: me pl")
    view = view.after(TypingUpdated("", True, OTHER_CHAT.uuid, VISITOR)).with_chat_read(OTHER_CHAT.uuid)
    assert rows(view)[0] == "2  new     visitor 0497  help"


def test_a_chat_keeps_its_number_over_reconnects_and_closed_ones_go() -> None:
    view = chat_list(CHAT, OTHER_CHAT)
    again = view.after(SnapshotBegins()).after(ChatUpdated(OTHER_CHAT))
    assert rows(again) == ["2  new     visitor 0497"]
    assert again.find(1) is None


def test_the_chat_on_the_screen_has_nothing_unread() -> None:
    view = chat_list(CHAT).after(MessageAdded(message(0, user=VISITOR)), shown=CHAT.uuid)
    assert view.rows[CHAT.uuid].unread == 0


def test_a_list_that_was_never_connected_shows_no_status() -> None:
    view = ChatListView().with_connection(ConnectionState.WAITING, "cannot connect to x:1: connection refused")
    assert drawing.chat_list_title(view) == "disconnected · the list is not loaded yet"
    assert rows(view) == []
    assert rows(view.with_connection(ConnectionState.LIVE, "")) == ["no chats yet"]


def test_the_title_of_the_list_shows_online_operators_and_unread_chats() -> None:
    view = chat_list().after(OperatorUpdated(OPERATOR, True, 1, 2)).after(GlobalUpdated(3))
    view = view.after(OperatorUpdated(User(8, Role.OPERATOR), False, 0, 0))
    assert drawing.chat_list_title(view) == "3 unread chats · operators: Olga (7: 1 new, 2 open)"
    assert drawing.chat_list_title(view.after(GlobalUpdated(1))).startswith("1 unread chat · ")


def test_the_list_says_what_to_type_as_soon_as_there_is_a_chat() -> None:
    view = ChatListView().with_connection(ConnectionState.LIVE, "")
    assert drawing.chat_list_hint(view) == []
    view = view.after(ChatUpdated(OTHER_CHAT)).after(ChatUpdated(CHAT)).after(MessageAdded(message(0, user=VISITOR)))
    assert drawing.chat_list_hint(view) == [
        ("class:notice", "type a chat's number to open it, for example 1 and Enter")
    ]


def read(index: int, text: str = "", *, user: User = VISITOR) -> Message:
    return attrs.evolve(message(index, text, user=user), status=MessageStatus.READ)


def test_messages_from_before_the_list_was_opened_are_previewed() -> None:
    view = chat_list(CHAT, OTHER_CHAT)
    assert view.next_without_history(()) == view.rows[OTHER_CHAT.uuid]
    assert view.next_without_history({OTHER_CHAT.uuid}) == view.rows[CHAT.uuid]
    note = attrs.evolve(message(4, "hm"), type=MessageType.SYSTEM)
    output = (read(0), message(1, "first", user=VISITOR), message(2, "second", user=VISITOR), message(3, "yes"), note)
    view = view.with_history(CHAT.uuid, output, has_more=True)
    view = view.with_history(OTHER_CHAT.uuid, [message(7, "help", user=VISITOR)], has_more=True)
    assert rows(view) == [
        "2  new     visitor 0497  1+ unread  help",
        "1  open    visitor 0497  2 unread  [Olga]  Olga: yes",
    ]
    assert view.next_without_history(()) is None


def test_a_history_older_than_the_events_changes_nothing() -> None:
    view = chat_list(CHAT).after(MessageAdded(message(5, "news", user=VISITOR)))
    assert view.with_history(CHAT.uuid, [message(4, "old", user=VISITOR)], has_more=False) is view


def test_an_answer_marks_nothing_as_read_and_a_first_message_needs_no_history() -> None:
    view = chat_list(CHAT).after(MessageAdded(message(0, "help", user=VISITOR))).after(MessageAdded(message(1, "yes")))
    assert rows(view) == ["1  open    visitor 0497  1 unread  [Olga]  Olga: yes"]
    assert view.next_without_history(()) is None


def test_when_fewer_chats_are_unread_than_are_marked_the_marked_ones_are_read_again() -> None:
    view = chat_list(CHAT, OTHER_CHAT).after(MessageAdded(message(0, user=VISITOR))).after(GlobalUpdated(1))
    view = view.without_history(OTHER_CHAT.uuid)
    assert view.next_without_history(()) is None
    view = view.after(GlobalUpdated(0))
    assert view.next_without_history(()) == view.rows[CHAT.uuid]
    view = view.with_history(CHAT.uuid, [read(0)], has_more=False)
    assert not view.unread_rows()


def test_a_chat_that_was_left_before_all_of_it_was_read_is_unread_again() -> None:
    unread = message(0, "help", user=VISITOR)
    view = chat_list(CHAT).after(MessageAdded(unread)).with_chat_read(CHAT.uuid)
    assert not view.unread_rows()
    view = view.with_stale_history(CHAT.uuid)
    assert view.next_without_history(()) is not None
    assert view.with_history(CHAT.uuid, [unread], has_more=False).unread_rows()


def test_a_row_takes_one_line_of_the_window_however_wide_its_characters_are() -> None:
    view = chat_list(OTHER_CHAT).after(
        MessageAdded(attrs.evolve(message(0, "日本語" * 20, user=VISITOR), chat=OTHER_CHAT))
    )
    (line,) = drawing.chat_list_lines(view, 50, get_cwidth)
    text = "".join(part for _, part in line)
    assert get_cwidth(text) in (49, 50)
    assert text.endswith("語…")
    assert len(drawing.row_line(view.rows[OTHER_CHAT.uuid])) < 110


def closed_chat(number: int) -> Chat:
    return attrs.evolve(CHAT, uuid=UUID(int=number), status=ChatStatus.CLOSED)


def test_closed_chats_are_listed_by_themselves_and_keep_their_numbers() -> None:
    view = chat_list(CHAT).with_closed([closed_chat(8), closed_chat(9)])
    assert rows(view) == ["2  closed  visitor 0497  [Olga]", "3  closed  visitor 0497  [Olga]"]
    assert drawing.chat_list_title(view) == "2 closed chats, newest first"
    assert "/list" in drawing.chat_list_hint(view)[0][1]
    found = view.find(3)
    assert found is not None
    assert found.chat.uuid == UUID(int=9)
    again = view.after(SnapshotBegins()).after(ChatUpdated(CHAT))
    assert rows(again) == rows(view)
    assert rows(again.with_open_shown()) == ["1  open    visitor 0497  [Olga]"]
    assert rows(chat_list().with_closed([])) == ["no closed chats"]


def test_a_closed_chat_that_is_reopened_is_in_the_list_again() -> None:
    view = chat_list().with_closed([closed_chat(8)])
    view = view.after(ChatUpdated(attrs.evolve(closed_chat(8), status=ChatStatus.OPEN)))
    assert rows(view.with_open_shown()) == ["1  open    visitor 0497  [Olga]"]


def test_inside_a_chat_unread_messages_of_other_chats_are_shown() -> None:
    third = attrs.evolve(OTHER_CHAT, uuid=UUID(int=9))
    view = chat_list(CHAT, OTHER_CHAT, third).after(MessageAdded(message(0, "mine", user=VISITOR)), shown=CHAT.uuid)
    assert drawing.other_chats_line(view, CHAT.uuid) == ""
    for chat in (third, OTHER_CHAT):
        view = view.after(MessageAdded(attrs.evolve(message(0, "help", user=VISITOR), chat=chat)), shown=CHAT.uuid)
    line = drawing.other_chats_line(view, CHAT.uuid)
    assert line == "chat 2, visitor 0497: help · 1 more unread chat · /open 2"
    shown = attrs.evolve(OPERATORS_VIEW, other_chats=line)
    assert drawing.status_lines(shown) == [[("class:unread", line)]]


def test_long_lines_are_broken_at_spaces_and_long_words_anywhere() -> None:
    def wrapped(text: str, width: int) -> list[str]:
        return ["".join(part for _, part in row) for row in drawing.wrap([("a", text[:3]), ("b", text[3:])], width)]

    assert wrapped("one two three", 9) == ["one two ", "three"]
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert wrapped("", 4) == [""]
    assert drawing.wrap([("a", "日本語")], 5, get_cwidth) == [[("a", "日本")], [("a", "語")]]


HOSTILE = "\x1b]0;owned\x07\u202e\x9b2J"


def test_all_foreign_text_is_cleaned_before_it_is_shown() -> None:
    visitor = attrs.evolve(VISITOR, firstname=f"Eve{HOSTILE}")
    chat = attrs.evolve(OTHER_CHAT, owner_user=visitor)
    attachment = Attachment(
        UUID(int=3), AttachmentType.FILE, f"https://x/{HOSTILE}", "", f"in{HOSTILE}voice.pdf", "pdf", 1
    )
    output = attrs.evolve(message(0, HOSTILE, user=visitor), chat=chat, attachments=(attachment,))
    view = after(
        attrs.evolve(OPERATORS_VIEW, chat=chat, other_chats=HOSTILE),
        UserConnected(visitor),
        MessageAdded(output),
        MessageAdded(attrs.evolve(output, id=7, text="", message_index=1)),
        TypingUpdated(HOSTILE, False, chat.uuid, visitor),
        ErrorEvent(f"x{HOSTILE}", HOSTILE, ""),
    )
    refusal = NotAdded(f"odd{HOSTILE}", HOSTILE, text="", client_id="c1")
    view = view.with_pending(Delivery("c1", HOSTILE, ())).with_failure(refusal)
    list_view = chat_list(chat).after(MessageAdded(output)).with_notice(HOSTILE)
    lines = [
        *drawing.chat_lines(view),
        *drawing.status_lines(view),
        *drawing.status_lines(view.with_connection(ConnectionState.WAITING, HOSTILE)),
        *drawing.chat_list_lines(list_view),
        *drawing.chat_list_lines(list_view.after(TypingUpdated(HOSTILE, False, chat.uuid, visitor))),
        *drawing.status_lines(list_view),
        *drawing.status_lines(list_view.with_connection(ConnectionState.CONNECTING, HOSTILE)),
    ]
    drawn = "".join(text for line in lines for row in drawing.wrap(line, 40) for _, text in row)
    assert "in\ufffd]0;owned\ufffd\ufffd\ufffd2Jvoice.pdf" in drawn
    assert drawn == clean(drawn)
    assert drawing.chat_title(view) == clean(drawing.chat_title(view))


def test_the_feed_is_printed_as_changed_rows() -> None:
    view = chat_list(CHAT)
    assert describe_item(view, ChatUpdated(CHAT)) == []
    assert describe_item(view, GlobalUpdated(1)) == []
    assert describe_item(view, ChatUpdated(OTHER_CHAT)) == ["#   2  new     visitor 0497"]
    assert describe_item(view, MessageAdded(message(0, "help", user=VISITOR))) == [
        "#   1  open    visitor 0497  1 unread  [Olga]  help"
    ]

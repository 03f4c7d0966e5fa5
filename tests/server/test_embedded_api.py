"""The API for code in the server's process has the same calls and rights as the HTTP API."""

from typing import Any
from uuid import UUID

import pytest

import actorchat
from actorchat import Rights
from actorchat.client import ApiError, open_api
from actorchat.protocol import ChatStatus, MessageType, Role, User, WidgetConfig
from tests.server.server_under_test import operator, run_server
from tests.server.test_accounts import close_code

ANN = User(7, Role.USER, firstname="Ann")
OLGA = User(1, Role.OPERATOR, firstname="Olga")
MEMORY = actorchat.Settings(storage="memory://", port=None)


async def _chat_of_ann(server: actorchat.Server, text: str = "hello") -> UUID:
    visitor = await server.connect_visitor(source="lk", user=ANN)
    assert visitor.chat is not None
    ann = await server.api_for(ANN)
    await ann.add_message(visitor.chat, text)
    return visitor.chat


async def test_a_bot_accepts_answers_notes_and_closes_without_a_token() -> None:
    async with actorchat.open_server(MEMORY) as server:
        chat = await _chat_of_ann(server)
        bot = await server.api_for(OLGA, sources=["lk"])
        assert [each.uuid for each in await bot.chats(status=ChatStatus.NEW)] == [chat]
        accepted = await bot.accept(chat)
        assert (accepted.status, accepted.operator_user) == (ChatStatus.OPEN, OLGA)
        await bot.add_message(chat, "good morning")
        note = await bot.add_note(chat, "asks every morning")
        assert (note.type, note.type_role) == (MessageType.SYSTEM, Role.OPERATOR)
        assert (await bot.close(chat)).status is ChatStatus.CLOSED
        assert (await bot.reopen(chat)).status is ChatStatus.OPEN
        assert (await bot.return_to_queue(chat)).operator_user is None
        assert (await bot.transfer(chat, OLGA.id)).operator_user == OLGA
        assert [each.user for each in await bot.operators()] == [OLGA]


async def test_paging_in_process_is_the_same_as_over_http_while_chats_move() -> None:
    async with run_server() as api:
        bot = await api.server.api_for(OLGA, sources=["lk"])
        talks = [await api.talk() for _ in range(5)]
        async with open_api(api.server.url, token=operator(OLGA.id)) as http:
            page, over_http = await bot.chat_page(limit=2), await http.chat_page(limit=2)
            shown = [*page.chats]
            assert over_http == page
            while page.next is not None:
                for visitor, chat in (talks[0], talks[-1]):
                    await api.write(visitor, chat)
                over_http = await http.chat_page(limit=2, cursor=page.next)
                page = await bot.chat_page(limit=2, cursor=page.next)
                assert over_http == page
                shown += page.chats
        assert [each.uuid for each in shown] == [chat for _, chat in reversed(talks)]
        with pytest.raises(ValueError, match="cursor"):
            await bot.chat_page(cursor="abcd")


async def test_history_is_paged_and_hides_notes_from_the_visitor() -> None:
    async with actorchat.open_server(MEMORY) as server:
        chat = await _chat_of_ann(server)
        bot, ann = await server.api_for(OLGA, sources=["lk"]), await server.api_for(ANN)
        await bot.add_note(chat, "secret")
        await ann.add_message(chat, "still there?")
        seen = await ann.history(chat)
        assert ([each.text for each in seen.messages], seen.from_index, seen.to_index) == (
            ["hello", "still there?"],
            0,
            2,
        )
        newer = await bot.history(chat, after=0, limit=1)
        assert ([each.text for each in newer.messages], newer.has_more) == (["secret"], True)
        older = await bot.history(chat, before=1)
        assert [each.text for each in older.messages] == ["hello"]
        with pytest.raises(ValueError, match="not both"):
            await bot.history(chat, before=1, after=1)


async def test_a_repeated_client_id_returns_the_stored_message() -> None:
    async with actorchat.open_server(MEMORY) as server:
        chat = await _chat_of_ann(server)
        ann = await server.api_for(ANN)
        first = await ann.add_message(chat, "once", client_id="k")
        assert await ann.add_message(chat, "once", client_id="k") == first


async def test_rights_are_those_of_the_http_api() -> None:
    async with actorchat.open_server(MEMORY) as server:
        chat = await _chat_of_ann(server)
        stranger = await server.api_for(User(8, Role.USER))
        elsewhere = await server.api_for(User(2, Role.OPERATOR), sources=["other"])
        ann = await server.api_for(ANN)
        for call, code in (
            (stranger.history(chat), "not_participant"),
            (elsewhere.accept(chat), "not_allowed"),
            (elsewhere.chats(source="lk"), "not_allowed"),
            (ann.accept(chat), "not_allowed"),
            (ann.operators(), "not_allowed"),
            (ann.add_note(chat, "x"), "not_allowed"),
            (ann.chat(UUID(int=5)), "not_found"),
            (ann.add_message(chat, ""), "empty"),
        ):
            with pytest.raises(actorchat.ChatRefused) as refused:
                await call
            assert refused.value.code == code
        assert await stranger.chats() == ()
        bot = await server.api_for(OLGA, sources=["lk"])
        with pytest.raises(ValueError, match="type_role"):
            await bot.add_message(chat, "x", type=MessageType.SYSTEM)


async def test_blocks_and_their_refusals_are_the_same_in_process_as_over_http() -> None:
    async with run_server() as api:
        visitor, chat = await api.talk()
        token = api.server.issue_token(OLGA, sources=["lk"], rights=Rights.SUPERVISOR)
        bot = await api.server.api_for(OLGA, sources=["lk"], rights=Rights.SUPERVISOR)
        async with open_api(api.server.url, token=token) as http, api.socket(f"/ws/chats/{chat}", visitor) as room:
            ann = (await http.chat_page()).chats[0].owner_user.id
            mine = await bot.block(user=ann, reason="advertising")
            assert (mine.user, mine.address, mine.reason, mine.by, mine.until) == (ann, None, "advertising", 1, None)
            assert await close_code(room) == 4403
            theirs = await http.block(address="192.0.2.0/24", seconds=60)
            assert await bot.blocks() == await http.blocks() == (theirs, mine)
            await bot.unblock(theirs.id)
            await http.unblock(mine.id)
            assert await bot.blocks() == await http.blocks() == ()
            wrong: list[tuple[str, dict[str, Any]]] = [  # Any: arguments of every type
                ("malformed", {}),
                ("malformed", {"address": "nonsense"}),
                ("malformed", {"address": "192.0.2.1", "seconds": 0}),
                ("malformed", {"address": "192.0.2.1", "reason": "x" * 501}),
                ("not_found", {"user": 12345}),
            ]
            for code, body in wrong:
                with pytest.raises(actorchat.ChatRefused) as refused:
                    await bot.block(**body)
                with pytest.raises(ApiError) as refused_over_http:
                    await http.block(**body)
                assert refused.value.code == refused_over_http.value.code == code
            with pytest.raises(actorchat.ChatRefused, match="not_found"):
                await bot.unblock(12345)


async def test_what_supervisors_and_administrators_do_is_refused_to_others_in_process() -> None:
    async with actorchat.open_server(MEMORY) as server:
        await _chat_of_ann(server)
        bot = await server.api_for(OLGA, sources=["lk"])
        supervisor = await server.api_for(OLGA, sources=["lk"], rights=Rights.SUPERVISOR)
        reply = await supervisor.add_reply("Hi", "Hello", source="lk")
        for call in (
            bot.blocks(),
            bot.block(address="192.0.2.1"),
            bot.unblock(1),
            bot.add_reply("Hi", "Hello", source="lk"),
            bot.change_reply(reply.id, title="Ho"),
            bot.delete_reply(reply.id),
            bot.set_widget("lk", WidgetConfig()),
            supervisor.set_widget("lk", WidgetConfig()),
            (await server.api_for(ANN)).blocks(),
        ):
            with pytest.raises(actorchat.ChatRefused) as refused:
                await call
            assert refused.value.code == "not_allowed"
        assert (await supervisor.change_reply(reply.id, title="Ho")).title == "Ho"


async def test_an_issued_token_signs_its_user_in_over_http() -> None:
    async with run_server() as api:
        chat = await _chat_of_ann(api.server)
        token = api.server.issue_token(ANN, ttl=60)
        answer = await api.call("GET", f"/api/chats/{chat}", token)
        assert answer.json()["owner_user"]["firstname"] == "Ann"


@pytest.mark.parametrize("bad", ["\ud83d", "a\0b"], ids=["half an emoji", "NUL"])
async def test_text_that_can_not_be_encoded_is_refused_on_input(bad: str) -> None:
    async with actorchat.open_server(MEMORY) as server:
        chat = await _chat_of_ann(server)
        ann = await server.api_for(ANN)
        with pytest.raises(actorchat.ChatRefused, match="malformed"):
            await ann.add_message(chat, bad)
        with pytest.raises(actorchat.ChatRefused, match="malformed"):
            await ann.add_message(chat, "fine", client_id=bad)
        with pytest.raises(ValueError, match="firstname"):
            await server.connect_visitor(source="lk", user=User(7, Role.USER, firstname=bad))
        await ann.add_message(chat, "and on it goes")
        assert [each.text for each in (await ann.history(chat)).messages] == ["hello", "and on it goes"]

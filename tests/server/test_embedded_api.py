"""The API for code in the server's process has the same calls and rights as the HTTP API."""

from uuid import UUID

import pytest

import actorchat
from actorchat.client import open_api
from actorchat.protocol import ChatStatus, MessageType, Role, User
from tests.server.server_under_test import operator, run_server

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

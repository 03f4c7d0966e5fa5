"""The client's consumer of Redis streams gets every message once, over restarts of everything."""

import logging

import coredis
import pytest
import trio

from actorchat.brokers import open_broker, parse_broker_url
from actorchat.client import ConsumerRefused, broker_consumer, open_broker_consumer
from actorchat.protocol import BrokerChannel, BrokerMessage
from tests.brokers.servers import Valkey

CAP = 30.0


def message(number: int) -> BrokerMessage:
    return BrokerMessage(BrokerChannel.MESSAGE, "shop", f"chat/{number}/1", b'{"text":"%d"}' % number)


async def publish(valkey: Valkey, *numbers: int, prefix: str = "") -> None:
    url = valkey.url + (f"?prefix={prefix}" if prefix else "")
    async with open_broker(parse_broker_url(url)).connect() as connection:
        await connection.publish([message(number) for number in numbers])


async def test_a_new_group_gets_what_is_published_from_then_on(valkey: Valkey) -> None:
    with trio.fail_after(CAP):
        await publish(valkey, 1, prefix="a.")
        async with open_broker_consumer(f"{valkey.url}?prefix=a.", "message", group="new") as messages:
            await group_made(valkey, "a.message")
            await publish(valkey, 2, 3, prefix="a.")
            assert [await anext(messages), await anext(messages)] == [message(2), message(3)]
        async with open_broker_consumer(
            f"{valkey.url}?prefix=a.", BrokerChannel.MESSAGE, group="old", from_start=True
        ) as messages:
            assert [await anext(messages) for _ in range(3)] == [message(1), message(2), message(3)]


async def group_made(valkey: Valkey, key: str) -> None:
    async with coredis.Redis("127.0.0.1", valkey.port) as client:
        while True:
            if await client.xinfo_groups(key):
                return
            await trio.sleep(0.01)


async def test_repeats_are_left_out_also_by_the_next_process(valkey: Valkey) -> None:
    url = f"{valkey.url}?prefix=b."
    with trio.fail_after(CAP):
        await publish(valkey, 1, 2, 1, 2, 3, prefix="b.")
        async with open_broker_consumer(url, "message", group="g", from_start=True) as messages:
            assert [await anext(messages) for _ in range(3)] == [message(1), message(2), message(3)]
            with trio.move_on_after(0.2):
                # Asking for the next message acknowledges the third one.
                await anext(messages)
        await publish(valkey, 2, 3, 4, prefix="b.")
        async with open_broker_consumer(url, "message", group="g") as messages:
            assert await anext(messages) == message(4)


async def test_a_message_that_was_not_finished_comes_again_first(valkey: Valkey) -> None:
    url = f"{valkey.url}?prefix=c."
    with trio.fail_after(CAP):
        await publish(valkey, 1, 2, 3, prefix="c.")
        async with open_broker_consumer(url, "message", group="g", from_start=True) as messages:
            assert await anext(messages) == message(1)
            assert await anext(messages) == message(2)
        async with open_broker_consumer(url, "message", group="g") as messages:
            assert [await anext(messages), await anext(messages)] == [message(2), message(3)]


async def test_a_message_that_waited_for_its_reader_is_not_finished_when_it_is_read(valkey: Valkey) -> None:
    url = f"{valkey.url}?prefix=e."
    with trio.fail_after(CAP):
        await publish(valkey, 1, 2, prefix="e.")
        async with open_broker_consumer(url, "message", group="g", from_start=True) as messages:
            # The message arrives before the reader asks for it.
            await trio.sleep(0.3)
            assert await anext(messages) == message(1)
            await trio.sleep(0.3)
        async with open_broker_consumer(url, "message", group="g") as messages:
            assert await anext(messages) == message(1)


@pytest.mark.slow
async def test_a_consumer_survives_restarts_of_the_broker(own_valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    await trio.to_thread.run_sync(own_valkey.start)
    got: list[BrokerMessage] = []
    with trio.fail_after(CAP):
        await publish(own_valkey, *range(5))
        async with open_broker_consumer(own_valkey.url, "message", group="g", from_start=True) as messages:
            for number in range(5):
                got.append(await anext(messages))
                if number % 2:
                    own_valkey.kill()
                    await trio.to_thread.run_sync(own_valkey.start)
            async with trio.open_nursery() as nursery:

                async def break_the_wait() -> None:
                    await trio.sleep(0.2)
                    own_valkey.kill()
                    await trio.sleep(0.5)
                    await trio.to_thread.run_sync(own_valkey.start)
                    await publish(own_valkey, 4, 5)

                nursery.start_soon(break_the_wait)
                got.append(await anext(messages))
    assert got == [message(number) for number in range(6)]
    assert "is unavailable, next attempt in" in caplog.text


async def test_a_refused_login_is_raised_to_the_reader(own_valkey: Valkey) -> None:
    own_valkey.password = "right"
    await trio.to_thread.run_sync(own_valkey.start)
    with trio.fail_after(CAP):
        async with open_broker_consumer(
            f"redis://:secret@127.0.0.1:{own_valkey.port}", "message", group="g"
        ) as messages:
            with pytest.raises(ConsumerRefused, match="refuses"):
                await anext(messages)


async def test_what_another_consumer_took_over_and_finished_is_not_delivered(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_consumer, "_CLAIM_IDLE", 0.5)
    monkeypatch.setattr(broker_consumer, "_CLAIM_PERIOD", 0.2)
    monkeypatch.setattr(broker_consumer, "_BLOCK_SECONDS", 0.1)
    url = f"{valkey.url}?prefix=g."
    with trio.fail_after(CAP):
        await publish(valkey, *range(5), prefix="g.")
        async with open_broker_consumer(url, "message", group="g", consumer="slow", from_start=True) as slow:
            assert await anext(slow) == message(0)
            async with open_broker_consumer(url, "message", group="g", consumer="quick") as quick:
                assert [await anext(quick) for _ in range(5)] == [message(number) for number in range(5)]
                with trio.move_on_after(0.2):
                    # Asking for the next message acknowledges the last one.
                    await anext(quick)
            await publish(valkey, 5, prefix="g.")
            assert await anext(slow) == message(5)


async def test_what_the_reader_raises_comes_out_as_it_is(valkey: Valkey) -> None:
    with trio.fail_after(CAP), pytest.raises(KeyError):
        async with open_broker_consumer(f"{valkey.url}?prefix=f.", "message", group="g"):
            raise KeyError("order")


async def test_entries_of_other_programs_are_left_out(valkey: Valkey) -> None:
    with trio.fail_after(CAP):
        async with coredis.Redis("127.0.0.1", valkey.port) as client:
            await client.xadd("foreign.message", {b"\xff": b"x"})
            await client.xadd("foreign.message", {"body": b"{}", "Widget-Source": b"shop", "Actorchat-Id": b"\xff"})
            await client.xadd("foreign.message", {"body": b"{}"})
        await publish(valkey, 1, prefix="foreign.")
        async with open_broker_consumer(
            f"{valkey.url}?prefix=foreign.", "message", group="g", from_start=True
        ) as messages:
            assert await anext(messages) == message(1)


@pytest.mark.parametrize(("url", "channel"), [("amqp://h", "message"), ("redis://h", "nonsense")])
async def test_a_wrong_url_or_channel_is_refused_at_once(url: str, channel: str) -> None:
    with pytest.raises(ValueError, match=r"expected redis|nonsense"):
        async with open_broker_consumer(url, channel, group="g"):
            raise AssertionError("it opened")


async def test_a_lost_connection_is_no_error_in_the_log(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(CAP):
        async with open_broker_consumer(f"{valkey.url}?prefix=d.", "message", group="g"):
            await trio.sleep(0.1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

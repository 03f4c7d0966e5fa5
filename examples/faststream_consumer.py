"""Reads messages with FastStream, from RabbitMQ, NATS or Redis: `python -m examples.faststream_consumer`.

Start a server that publishes first, to RabbitMQ with `actorchat serve --broker amqp://127.0.0.1`, to NATS with
`--broker nats://127.0.0.1`, or to Redis with `--broker "redis://127.0.0.1?format=faststream"`. `BROKER` in the
environment names another broker. FastStream is installed with `pip install "faststream[rabbit,nats,redis]"`.
"""

import asyncio
import os
from collections import OrderedDict
from typing import Annotated, Any

from faststream import Context, FastStream
from faststream.nats import JStream, NatsBroker
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.redis import RedisBroker, StreamSub

BROKER = os.environ.get("BROKER", "amqp://guest:guest@127.0.0.1:5672/")
REMEMBERED = 10_000

seen: OrderedDict[str, None] = OrderedDict()


# Any: the body is the contract's Message as JSON; describe with a model what you use of it.
async def on_message(
    body: dict[str, Any],
    source: Annotated[str, Context("message.headers.Widget-Source")],
    id_: Annotated[str, Context("message.headers.Actorchat-Id")],
) -> None:
    if id_ in seen:
        # Published again, after a lost connection or a crash.
        return
    seen[id_] = None
    if len(seen) > REMEMBERED:
        seen.popitem(last=False)
    audience = "operators only" if (body["type"], body["type_role"]) == ("system", "operator") else "everybody"
    print(f"[{source}] {id_} for {audience}: {body['text']}", flush=True)


def make_app() -> FastStream:
    if BROKER.startswith("redis"):
        redis = RedisBroker(BROKER)
        redis.subscriber(stream=StreamSub("message", group="crm", consumer="1"))(on_message)
        return FastStream(redis)
    if BROKER.startswith(("nats", "tls")):
        nats = NatsBroker(BROKER)
        # The server has made the stream. A durable consumer goes on where it was; "message.shop" would be one source.
        nats.subscriber("message.*", stream=JStream("message", declare=False), durable="crm")(on_message)
        return FastStream(nats)
    rabbit = RabbitBroker(BROKER)
    # A durable queue keeps what is published while this program is away. "#" is every source; "shop" would be one.
    queue = RabbitQueue("crm", durable=True, routing_key="#")
    exchange = RabbitExchange("message", type=ExchangeType.TOPIC, durable=True)
    rabbit.subscriber(queue, exchange)(on_message)
    return FastStream(rabbit)


if __name__ == "__main__":
    asyncio.run(make_app().run())

"""Provides a Trio client for actorchat servers: chat rooms, the operators' feed, the HTTP API and Redis streams.

::

    async with actorchat.client.open_room("http://127.0.0.1:8000", chat, token=token, after=-1) as room:
        delivery = await room.send("Hello")
        async for event in room:
            ...
"""

from actorchat.client.api import (
    Api,
    Block,
    ChatPage,
    HistoryPage,
    MessageEdit,
    MessagesFound,
    PeopleFound,
    SummaryPage,
    Visit,
    open_api,
)
from actorchat.client.broker_consumer import BrokerConsumer, open_broker_consumer
from actorchat.client.delivery import Delivery
from actorchat.client.errors import (
    ApiError,
    ApiUnreachable,
    ClientError,
    ConnectionEnded,
    ConsumerRefused,
    NoSuchChat,
    NotAdded,
    NotAllowed,
    NotAuthenticated,
    SignedOut,
    Undelivered,
)
from actorchat.client.feed import FeedConnection, FeedItem, SnapshotBegins, open_feed
from actorchat.client.reconnect import ConnectionState
from actorchat.client.room import RoomConnection, open_room

__all__ = [
    "Api",
    "ApiError",
    "ApiUnreachable",
    "Block",
    "BrokerConsumer",
    "ChatPage",
    "ClientError",
    "ConnectionEnded",
    "ConnectionState",
    "ConsumerRefused",
    "Delivery",
    "FeedConnection",
    "FeedItem",
    "HistoryPage",
    "MessageEdit",
    "MessagesFound",
    "NoSuchChat",
    "NotAdded",
    "NotAllowed",
    "NotAuthenticated",
    "PeopleFound",
    "RoomConnection",
    "SignedOut",
    "SnapshotBegins",
    "SummaryPage",
    "Undelivered",
    "Visit",
    "open_api",
    "open_broker_consumer",
    "open_feed",
    "open_room",
]

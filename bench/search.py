"""Measures full-text search over many stored messages: how long a search takes, and the size of the index."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import UUID

import trio

from actorchat.chat.model import Policy
from actorchat.chat.search import SearchFilter, SearchKind, words_of
from actorchat.protocol import Role
from actorchat.storage.search import StoreSearch
from actorchat.storage.search_index import SearchIndex
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.worker_threads import open_workers
from bench.run_plan import Plan

__all__ = ["search"]

MESSAGES_OF_CHAT: Final = 50
SOURCES: Final = ("shop", "lk", "app", "help")
VOCABULARY: Final = 40_000
SEARCHES: Final = 300
TARGET: Final = 50.0
_SYLLABLES: Final = {
    "en": ["an", "ber", "co", "del", "er", "fi", "gra", "in", "ko", "la", "mo", "ne", "or", "pa", "ri", "sta", "tu"],
    "ru": "ва го де ёж за ка ли мо на об по ра со ти ту цен щи".split(),  # noqa: RUF001, SIM905 - Russian
}


def search(plan: Plan) -> None:
    """Full-text search over a million messages: the time of a search, warm, and of building the index."""
    messages = 100_000 if plan.quick else 1_000_000
    times = plan.report.runs(f"search of {messages:,} messages, p95", "ms", less=True)
    built = plan.report.runs(f"index of {messages:,} messages", "µs a message", less=True)
    used = plan.report.runs(f"index of {messages:,} messages, CPU", "µs a message", less=True)
    size = plan.report.runs(f"index of {messages:,} messages, size", "bytes a message", less=True)
    plan.report.ask_value(f"{times.case} in ms", times.case, "all", TARGET, most=True)
    words = _vocabulary()
    with TemporaryDirectory() as name:
        folder = Path(name)
        plan.tell(f"search: writing {messages:,} messages")
        with closing(SqliteStore(folder / "chat.db", Policy())) as store:
            _fill(folder / "chat.db", messages, words)
        with closing(SqliteStore(folder / "chat.db", Policy())) as store:
            index = SearchIndex(folder / "search.db")
            for number in plan.each_round("search", steps=2):
                plan.step("search: building the index")
                if not number:
                    seconds, cpu_seconds = _build(store, index)
                    built.add("actorchat", seconds / messages * 1e6)
                    used.add("actorchat", cpu_seconds / messages * 1e6)
                    size.add("actorchat", (folder / "search.db").stat().st_size / messages)
                plan.step("search: searching")
                everything: list[float] = []
                for kind, filters in _searches(words, messages, number).items():
                    taken = sorted(trio.run(_search_each, store, index, filters))
                    times.add(kind, taken[int(len(taken) * 0.95)])
                    everything += taken
                everything.sort()
                times.add("all", everything[int(len(everything) * 0.95)])
            index.close()


def _vocabulary() -> list[str]:
    """Words of two to four syllables, the most frequent first."""
    choose = random.Random(1)
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        syllables = _SYLLABLES[choose.choice(("ru", "ru", "en"))]
        words["".join(choose.choices(syllables, k=choose.randint(2, 4)))] = None
    return sorted(words, key=len)


def _texts(words: list[str], messages: int) -> Iterator[str]:
    choose = random.Random(2)
    # By Zipf's law: the n-th word occurs 1/n times as often as the first.
    weights = [0.0]
    for rank in range(1, len(words) + 1):
        weights.append(weights[-1] + 1 / rank)
    del weights[0]
    for _ in range(0, messages, 1_000):
        drawn = iter(choose.choices(words, cum_weights=weights, k=20_000))
        for _ in range(1_000):
            yield " ".join(next(drawn) for _ in range(choose.randint(2, 20)))


def _fill(path: Path, messages: int, words: list[str]) -> None:
    chats = messages // MESSAGES_OF_CHAT
    texts = _texts(words, messages)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO chats (number, uuid, source, owner_id, stage, rev, next_index, visitor_delivered,"
            " visitor_read, operators_delivered, operators_read, last_visitor_index, last_activity, place)"
            " VALUES (?, ?, ?, ?, 'closed', ?, ?, -1, -1, -1, -1, ?, 0, ?)",
            (
                (
                    chat,
                    UUID(int=chat).hex,
                    SOURCES[chat % len(SOURCES)],
                    chat,
                    MESSAGES_OF_CHAT,
                    MESSAGES_OF_CHAT,
                    MESSAGES_OF_CHAT - 1,
                    messages - chats + chat,
                )
                for chat in range(1, chats + 1)
            ),
        )
        connection.executemany(
            "INSERT INTO people (role, id, avatar, lastname, firstname, patronymic, sources, online)"
            " VALUES ('user', ?, '', '', ?, '', '{}', 0)",
            ((chat, words[chat % len(words)]) for chat in range(1, chats + 1)),
        )
        # As live: the messages of many chats alternate.
        connection.executemany(
            "INSERT INTO messages (id, chat, message_index, rev, type, type_role, author_role, author_id, text, time)"
            " VALUES (?, ?, ?, ?, 'standard', 'user', 'user', ?, ?, 0)",
            (
                (at * chats + chat, chat, at, at + 1, chat, next(texts))
                for at in range(MESSAGES_OF_CHAT)
                for chat in range(1, chats + 1)
            ),
        )
        connection.execute(
            "INSERT INTO writers (writer, batch, last_message_id, time, fences) VALUES ('bench', 1, ?, 0, 0)",
            (messages,),
        )


def _build(store: SqliteStore, index: SearchIndex) -> tuple[float, float]:
    """Build the index, and return the seconds that it took, and those of the CPU."""
    begun, cpu_begun = time.perf_counter(), time.process_time()

    async def build() -> None:
        async with open_workers("search") as runner:
            built = StoreSearch(store, index, runner, in_background=False)
            while await runner.run(built.step):
                pass

    trio.run(build)
    return time.perf_counter() - begun, time.process_time() - cpu_begun


def _searches(words: list[str], messages: int, seed: int) -> dict[str, list[SearchFilter]]:
    choose = random.Random(seed)
    sources = frozenset(SOURCES)

    def ask(*query: str, chat: int | None = None, within: frozenset[str] = sources) -> SearchFilter:
        return SearchFilter(
            words=query,
            role=Role.OPERATOR,
            kind=SearchKind.MESSAGES,
            sources=within,
            chats=None if chat is None else frozenset({UUID(int=chat)}),
        )

    def each(make: Callable[[], SearchFilter]) -> list[SearchFilter]:
        return [make() for _ in range(SEARCHES)]

    words = [folded for word in words for folded in words_of(word)]
    frequent, rare = words[:50], words[1_000:]
    chats = messages // MESSAGES_OF_CHAT
    return {
        "a frequent word": each(lambda: ask(choose.choice(frequent))),
        "a rare word": each(lambda: ask(choose.choice(rare))),
        "two frequent words": each(lambda: ask(*choose.sample(frequent, 2))),
        "a frequent and a rare word": each(lambda: ask(choose.choice(frequent), choose.choice(rare))),
        "the beginning of a word": each(lambda: ask(choose.choice(rare)[: choose.randint(2, 5)])),
        "one source of four": each(lambda: ask(choose.choice(frequent), within=frozenset({choose.choice(SOURCES)}))),
        "one chat": each(lambda: ask(choose.choice(frequent), chat=choose.randint(1, chats))),
    }


async def _search_each(store: SqliteStore, index: SearchIndex, filters: list[SearchFilter]) -> list[float]:
    async with open_workers("search") as runner:
        found = StoreSearch(store, index, runner, in_background=True)
        await found.messages(filters[0])
        taken: list[float] = []
        for which in filters:
            begun = time.perf_counter()
            await found.messages(which)
            taken.append((time.perf_counter() - begun) * 1_000)
        return taken

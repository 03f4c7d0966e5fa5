"""A process that is killed during commits has stored every message that it reported."""

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from actorchat.chat.model import Policy
from actorchat.storage.sqlite import SqliteStore
from tests.storage.sample_chat import all_messages

REPORT = """
import sys
from uuid import UUID
import trio
from actorchat.chat.model import Policy
from actorchat.storage import open_journal, open_store
from tests.storage.sample_chat import RESERVE, OutcomeRecorder, say

async def main():
    async with open_store(f"sqlite:///{sys.argv[1]}", Policy()) as storage:
        async with open_journal(storage.store, storage.runner) as journal:
            def report(outcome):
                for message in outcome.decision.messages:
                    print(message.id, message.index, message.text, flush=True)
                number[0] += 1
                journal.submit(say(f"{run} {number[0]}"), recipient)
            number, run = [0], sys.argv[2]
            recipient = OutcomeRecorder(report)
            for _ in range(30):
                message = say(f"{run} first {_}")
                journal.submit(RESERVE if _ == 0 and run == "0" else message, recipient)
            await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.slow
def test_after_a_kill_every_broadcast_message_is_stored_without_gaps(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    reported: list[tuple[str, ...]] = []
    for run in range(5):
        command = [sys.executable, "-c", REPORT, str(path), str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            reported.append(tuple(process.stdout.readline().split(maxsplit=2)))
            time.sleep(0.05 * run)  # each kill comes at another moment
            process.kill()
            # The last line may be incomplete; such a message does not count as reported.
            lines = process.stdout.read().split("\n")[:-1]
            reported += [tuple(line.split(maxsplit=2)) for line in lines]
    with closing(SqliteStore(path, Policy())) as store:
        messages = all_messages(store)
        assert store.corrected_counters == 0
    kept = {(str(message.id), str(message.index), message.text) for message in messages}
    assert {(id_, index, text.rstrip("\n")) for id_, index, text in reported} <= kept
    assert [message.index for message in messages] == list(range(len(messages)))
    assert len({message.id for message in messages}) == len(messages)
    assert len(reported) > 100

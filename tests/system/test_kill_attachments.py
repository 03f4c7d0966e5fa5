"""A server that is killed while files are uploaded, sent and deleted loses no file and keeps none for ever.

`pytest tests/system --kill-rounds=50` kills it 50 times.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest
import trio

from actorchat.protocol import Role, User
from actorchat.server.serving import Server, open_server
from actorchat.server.settings import AttachmentSettings, Settings

CHANGE_FILES = """
import sys
from pathlib import Path
import trio
from tests.system.test_kill_attachments import change_files

trio.run(change_files, Path(sys.argv[1]), int(sys.argv[2]))
"""

ANN = User(7, Role.USER)
UNUSED_SECONDS = 60.0


def settings(folder: Path) -> Settings:
    limits = AttachmentSettings(unused_timeout=UNUSED_SECONDS, size=10_000_000)
    return Settings(data=folder, port=None, attachments=limits)


def content(uuid_or_number: int) -> bytes:
    """Bytes of some sizes, all of one value."""
    return bytes([uuid_or_number % 256]) * (1 + uuid_or_number * 7_919 % 600_000)


async def delete_unused(server: Server, seconds: float) -> None:
    """Look for files as if so many seconds had passed."""
    attachments = server._parts.attachments
    clock = attachments._clock
    attachments._clock = lambda: clock() + seconds
    try:
        await attachments.expire_unused()
        await attachments.delete_orphans()
    finally:
        attachments._clock = clock


async def change_files(folder: Path, seed: int) -> None:
    """Upload, send and delete files, and print each file that a message has, until killed."""
    chance = random.Random(seed)
    async with open_server(settings(folder)) as server, trio.open_nursery() as nursery:
        calls = await server.api_for(ANN)
        visitor = await server.connect_visitor(source="lk", user=ANN)
        assert visitor.chat is not None
        chat = visitor.chat
        print("ready", flush=True)  # noqa: T201 - read by the test

        async def send() -> None:
            while True:
                number = chance.randrange(10_000)
                attachment = await calls.upload(content(number), f"{number}.bin")
                if chance.random() < 0.5:
                    continue
                try:
                    await calls.add_message(chat, "", [attachment.uuid])
                except Exception as error:
                    # The upload was deleted meanwhile, like one that has expired.
                    if "attachment_unknown" not in str(error):
                        raise
                else:
                    print(attachment.uuid, flush=True)  # noqa: T201 - read by the test

        for _ in range(4):
            nursery.start_soon(send)
        while True:
            await trio.sleep(chance.random() * 0.1)
            await delete_unused(server, 2 * 3_600)


async def check_files(folder: Path, announced: set[UUID]) -> int:
    """After one look for unused files, exactly the files of messages are there, whole. Returns how many."""
    async with open_server(settings(folder)) as server:
        # `delete_unused` set the clock forward in the killed process, so some uploads are that far ahead.
        await delete_unused(server, 2 * 2 * 3_600)
        calls = await server.api_for(ANN)
        visitor = await server.connect_visitor(source="lk", user=ANN)
        assert visitor.chat is not None
        taken: dict[UUID, int] = {}
        last = -1
        while (page := await calls.history(visitor.chat, after=last, limit=200)).to_index is not None:
            last = page.to_index
            for message in page.messages:
                for attachment in message.attachments:
                    number = int(attachment.filename.removesuffix(".bin"))
                    assert await calls.download(attachment) == content(number)
                    taken[attachment.uuid] = number
        assert announced <= taken.keys()
        assert await server._parts.chats.chat_reader.unbound_uploads(2**40, 1) == ()
        await visitor.aclose()
    on_disk = {path.name for path in (folder / "attachments").rglob("*") if path.is_file()}
    assert on_disk == {uuid.hex for uuid in taken} | {"owner"}
    return len(taken)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rounds" in metafunc.fixturenames:
        metafunc.parametrize("rounds", [metafunc.config.getoption("--kill-rounds", None) or 3])


@pytest.mark.slow
def test_after_kills_every_file_of_a_message_is_there_and_no_other(tmp_path: Path, rounds: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    chance = random.Random(seed)
    announced: set[UUID] = set()
    for round_ in range(rounds):
        command = [sys.executable, "-c", CHANGE_FILES, str(tmp_path), str(seed + round_)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.random() * 1.5)
            process.kill()
            # The last line may be incomplete; such a file does not count as reported.
            announced.update(map(UUID, process.stdout.read().split("\n")[:-1]))
    assert trio.run(check_files, tmp_path, announced) >= len(announced) > 0

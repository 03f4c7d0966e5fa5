"""`actorchat export` and `actorchat erase`, with a running server and without one."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import trio

from actorchat.protocol import Role, User
from actorchat.server.serving import Server, open_server
from actorchat.server.settings import Settings


async def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "actorchat", *arguments]
    with trio.fail_after(60):
        return await trio.run_process(command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False)


async def write(server: Server, text: str) -> None:
    async with await server.connect_visitor(source="lk", user=User(7, Role.USER, firstname="Ann")) as socket:
        api = await server.api_for(User(7, Role.USER))
        assert socket.chat is not None
        await api.add_message(socket.chat, text)


@pytest.mark.parametrize("running", [True, False])
async def test_a_person_is_exported_and_erased(tmp_path: Path, running: bool) -> None:
    settings = Settings(data=tmp_path / "data", port=None)
    person = ("--role", "user", "--user-id", "7", "--data", str(tmp_path / "data"))
    target = tmp_path / "ann.zip"

    async def check() -> None:
        exported = await run("export", *person, "--output", str(target))
        assert (exported.returncode, exported.stderr) == (0, b"")
        assert b"Exported 1 chat, 1 message, 0 files to" in exported.stdout
        assert target.stat().st_mode & 0o077 == 0
        with zipfile.ZipFile(target) as archive:
            assert json.loads(archive.read("person.json"))["person"]["firstname"] == "Ann"
        again = await run("export", *person, "--output", str(target))
        assert (again.returncode, again.stdout) == (1, b"")
        assert b"exists already" in again.stderr
        refused = await run("erase", *person, stdin=b"n\n")
        assert refused.returncode == 1
        erased = await run("erase", *person, "--yes")
        assert (erased.returncode, erased.stdout) == (0, b"Erased the user 7: 1 chat, 1 message, 0 files.\n")

    async with open_server(settings) as server:
        await write(server, "hello")
        if running:
            await check()
    if not running:
        await check()
    async with open_server(settings) as server:
        eve = await server.api_for(User(1, Role.OPERATOR), sources=["lk"])
        [chat] = await eve.chats()
        assert {message.text for message in (await eve.history(chat.uuid)).messages} == {""}
        assert (chat.owner_user.firstname, chat.status) == ("", "closed")


async def test_an_unknown_person_or_folder_is_one_line(tmp_path: Path) -> None:
    nowhere = await run("erase", "--role", "user", "--user-id", "7", "--yes", "--data", str(tmp_path / "none"))
    assert (nowhere.returncode, nowhere.stdout) == (1, b"")
    assert b"has no database" in nowhere.stderr
    async with open_server(Settings(data=tmp_path, port=None)):
        unknown = await run("export", "--role", "operator", "--user-id", "8", "--data", str(tmp_path))
    assert (unknown.returncode, unknown.stdout) == (1, b"")
    assert b"there is no operator with the id 8" in unknown.stderr

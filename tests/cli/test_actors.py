"""`actorchat actors tree`: the table, JSON output, watch mode and exit status."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from io import StringIO
from pathlib import Path

import attrs
import httpx
import pexpect  # type: ignore[import-untyped]  # it comes without types
import pyte
import pytest
import trio
from click.testing import CliRunner, Result
from rich.console import Console

from actorchat.actor_tree import ActorRow, Family, InspectionRequest, Tree
from actorchat.cli import main
from actorchat.cli.actor_tree_table import draw
from actorchat.server.inspection import SOCKET_NAME
from tests.cli.server_process import TIMEOUT, ServerProcess, environment, open_server_process
from tests.server.server_under_test import websocket

COMMAND = (sys.executable, "-W", "error", "-m", "actorchat", "actors", "tree")
LOOK = ("--data", "actorchat-data")

ROW = ActorRow(
    name="6f1c0a3e",
    family="room",
    kind="Room",
    state="running",
    age=5.0,
    inbox=0,
    bound=1024,
    restarts=0,
    handled=0,
    message=None,
    busy_for=0.0,
    waiting_on=None,
    dropped=0,
    drops={},
)
ROOMS = Family(name="room", actors=2000, busy=3, queued=12, handled=1234567, dropped=0)
TREE = Tree(pid=7, families=(ROOMS,), rows=(ROW,), matched=1, page=1, pages=1, lost={})


def picture(
    tree: Tree, question: InspectionRequest | None = None, width: int = 200, folder: str | None = "data"
) -> str:
    console = Console(file=StringIO(), width=width, highlight=False)
    with console.capture() as captured:
        console.print(draw(tree, question or InspectionRequest(), folder))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["actors", "tree", *arguments], prog_name="actorchat")


async def ended(folder: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [*COMMAND, *LOOK, *options],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=folder,
        env=environment(),
    )


@asynccontextmanager
async def server_with_a_chat(folder: Path) -> AsyncIterator[tuple[ServerProcess, str]]:
    """Run a server in `folder`. Yields it and the id of a chat with an open socket."""
    async with open_server_process(folder, "--port", "0", "--storage", "memory://") as server:
        await server.read_until("Ctrl-C stops it.")
        async with httpx.AsyncClient(base_url=server.url) as http:
            visit = (await http.post("/api/visitors", json={"source": "lk"})).json()
        async with websocket(server.port, f"/ws/chats/{visit['chat']['uuid']}", visit["token"]) as member:
            await member.get_message()
            yield server, visit["chat"]["uuid"]


# The table


def test_families_have_their_actors_below_and_their_totals_in_the_columns() -> None:
    alone = attrs.evolve(ROW, name="directory", family=None, kind="Directory")
    tree = attrs.evolve(TREE, rows=(attrs.evolve(ROW, inbox=12), alone), matched=2)
    assert picture(tree).splitlines() == [
        "actorchat data · pid 7 · 2,000 actors · 3 busy · 12 queued",
        "",
        "ACTOR           KIND       STATE     AGE     INBOX    HANDLED  BUSY WITH",
        "├─ directory    Directory  running  5.0s   0/1,024          0",
        "└─ room 2,000                                   12  1,234,567  3 busy",
        "   └─ 6f1c0a3e  Room       running  5.0s  12/1,024          0",
        "",
        "1 to 2 of 2 actors · sorted by inbox",
    ]


def test_a_node_is_named_and_if_it_was_found_by_its_folder_the_others_are_mentioned() -> None:
    tree = attrs.evolve(TREE, node="shop-1")
    first, *_, last = picture(tree).splitlines()
    assert first.startswith("actorchat data · node shop-1 · pid 7 · ")
    assert (
        last == "`actorchat nodes` lists the nodes of the same database, such as other workers; --node NAME shows one"
    )
    first, *_, last = picture(tree, folder=None).splitlines()
    assert first.startswith("actorchat node shop-1 · pid 7 · ")
    assert "other workers" not in last


def test_a_column_is_there_as_soon_as_it_tells_something() -> None:
    told = attrs.evolve(
        ROW,
        age=7300.0,
        restarts=2,
        message="OperationRequest",
        busy_for=61.5,
        waiting_on="journal",
        dropped=3,
        drops={"rejected": 3},
    )
    text = picture(attrs.evolve(TREE, rows=(told,)))
    for words in (
        "AGE",
        "2h 1m",
        "0/1,024",
        "RESTARTS",
        "OperationRequest 1m 1s",
        "WAITS FOR",
        "journal",
        "3 rejected",
    ):
        assert words in text
    for title in ("RESTARTS", "WAITS FOR", "LOST"):
        assert title not in picture(TREE)


def test_a_page_says_which_it_is_and_how_to_get_the_next() -> None:
    tree = attrs.evolve(TREE, matched=2001, page=3, pages=2001)
    assert "3 to 3 of 2,001 actors matching “room” · sorted by inbox · page 3 of 2,001 (--page 4)" in picture(
        tree, InspectionRequest(filter="room", limit=1, page=3)
    )
    assert "no actors matching “zzz”" in picture(
        attrs.evolve(TREE, rows=(), matched=0), InspectionRequest(filter="zzz")
    )


def test_a_narrow_terminal_shortens_names_never_numbers() -> None:
    row = attrs.evolve(
        ROW, name="6f1c0a3e-74b1-4d0b-9a41-0c4ff7ab1a11", message="OperationRequest", busy_for=12.0, inbox=5
    )
    tree = attrs.evolve(TREE, rows=(row,))
    lines = picture(tree, width=80).splitlines()
    assert len(lines) == 7
    assert max(map(len, lines)) <= 80
    assert "6f1c0a3e" in lines[4]
    assert "1,234,567" in picture(tree, width=60)


def test_a_name_can_not_steer_the_terminal() -> None:
    evil = attrs.evolve(ROW, name="\x1b[2J[red]x\n", waiting_on="\x07")
    text = picture(attrs.evolve(TREE, rows=(evil,), lost={"rejected": 2}))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[2J[red]x" in text
    assert "lost: 2 rejected" in text


# The command


def test_the_help_teaches_with_examples() -> None:
    output = run("--help").output
    assert output.partition("Examples:")[2].count("actorchat actors tree") >= 5
    assert "actorchat actors" in CliRunner().invoke(main, ["actors", "--help"], prog_name="actorchat").output


@pytest.mark.parametrize("wrong", [("--limit", "1001"), ("--limit", "0"), ("--page", "0"), ("--sort", "colour")])
def test_invalid_options_are_a_usage_error(wrong: tuple[str, str]) -> None:
    assert run(*wrong).exit_code == 2


@pytest.mark.parametrize("options", [(), ("--json",), ("--watch",), ("--watch", "--json")])
def test_without_a_server_it_is_one_line_and_status_1(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run("--data", str(tmp_path / "nowhere"), *options)
    assert result.exit_code == 1
    assert result.output == (
        f"actorchat: no server runs on {tmp_path}/nowhere; start one with: actorchat serve --data {tmp_path}/nowhere\n"
    )


@pytest.mark.parametrize("storage", [(), ("--storage", "sqlite:///chat.db"), ("--storage", "memory://")])
def test_there_are_nodes_with_postgresql_only(storage: tuple[str, ...], tmp_path: Path) -> None:
    result = run("--data", str(tmp_path), "--node", "two", *storage)
    assert result.exit_code == 1
    assert result.output == (
        "actorchat: only servers whose chats are in PostgreSQL have nodes: set --storage postgresql://…\n"
    )


def test_a_database_that_can_not_be_reached_is_one_line(tmp_path: Path) -> None:
    result = run("--node", "two", "--storage", f"postgresql://someone:hidden@/chat?host={tmp_path}")
    assert result.exit_code == 1
    assert result.output.startswith("actorchat: postgresql://")
    assert len(result.output.splitlines()) == 1
    assert "hidden" not in result.output


@pytest.mark.slow
async def test_a_running_server_shows_its_rooms(tmp_path: Path) -> None:
    async with server_with_a_chat(tmp_path) as (server, chat):
        shown = await ended(tmp_path)
        assert (shown.returncode, shown.stderr) == (0, b"")
        assert f"pid {server.process.pid}" in shown.stdout.decode()
        assert chat in shown.stdout.decode()
        told = json.loads((await ended(tmp_path, "--json", "--filter", chat[:13])).stdout)
        assert [(row["name"], row["family"], row["kind"]) for row in told["rows"]] == [(chat, "room", "Room")]
        assert await server.stop() == 0
        assert await server.rest_of_stderr() == ""
    gone = await ended(tmp_path)
    assert gone.returncode == 1
    assert len(gone.stderr.splitlines()) == 1


@pytest.mark.slow
async def test_a_killed_server_is_reported_and_its_successor_is_found(tmp_path: Path) -> None:
    async with server_with_a_chat(tmp_path) as (server, _):
        await server.stop(signal.SIGKILL)
    assert SOCKET_NAME in os.listdir(tmp_path / "actorchat-data")
    assert b"no server runs on" in (await ended(tmp_path)).stderr
    async with server_with_a_chat(tmp_path) as (server, chat):
        assert chat in (await ended(tmp_path)).stdout.decode()
        assert await server.stop() == 0
        assert await server.rest_of_stderr() == ""


@pytest.mark.slow
async def test_a_server_that_stops_ends_the_watch_with_one_line(tmp_path: Path) -> None:
    async with server_with_a_chat(tmp_path) as (server, chat):
        watch = await trio.lowlevel.open_process(
            [*COMMAND, *LOOK, "--watch", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment(),
        )
        assert watch.stdout is not None
        assert watch.stderr is not None
        async with watch.stdout, watch.stderr:
            output = b""
            while output.count(b"\n") < 2:
                output += await watch.stdout.receive_some()
            looks = [json.loads(line) for line in output.splitlines()]
            assert [chat in {row["name"] for row in look["rows"]} for look in looks] == [True, True]
            await server.stop()
            assert await watch.wait() == 1
            complaint = b"".join([bytes(part) async for part in watch.stderr])
    assert complaint.startswith(b"actorchat: ")
    assert len(complaint.splitlines()) == 1


@pytest.mark.slow
async def test_the_watch_fills_the_screen_and_ctrl_c_gives_it_back(tmp_path: Path) -> None:
    async with server_with_a_chat(tmp_path) as (_, chat):
        screen, code, rest = await trio.to_thread.run_sync(_watch_and_interrupt, tmp_path, chat)
    assert f"└─ {chat}" in screen
    assert code == 0
    assert b"\x1b[?1049l" in rest
    assert b"Traceback" not in rest


def test_ctrl_c_in_the_middle_of_drawing_gives_the_screen_back(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = 0

    async def look(folder: Path, question: InspectionRequest) -> Tree:
        return TREE

    class Interrupted(StringIO):
        def write(self, text: str) -> int:
            nonlocal drawn
            if "by inbox" in text:
                drawn += 1
                if drawn == 2:
                    signal.raise_signal(signal.SIGINT)
            return super().write(text)

    screen = Interrupted()
    monkeypatch.setattr("actorchat.cli.actors.inspect_server", look)
    monkeypatch.setattr(
        "rich.console.Console", partial(Console, file=screen, force_terminal=True, width=110, height=30)
    )
    run("--watch", "--data", "anywhere")
    shown = screen.getvalue()
    assert shown.count("\x1b[?1049h") == shown.count("\x1b[?1049l") == 1
    # The screen in progress is drawn to its end.
    assert drawn >= 2
    assert shown.count("by inbox") == drawn


_LOOKS = 10


def _watch_and_interrupt(folder: Path, chat: str) -> tuple[str, int | None, bytes]:
    screen = pyte.Screen(110, 30)
    stream = pyte.ByteStream(screen)
    terminal = pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], *LOOK, "--watch"],
        cwd=str(folder),
        dimensions=(30, 110),
        env={**environment(), "TERM": "xterm-256color"},
        timeout=TIMEOUT,
    )
    shown = ""
    for _ in range(_LOOKS):
        # A screen may be half drawn when its last line arrives; the next one overwrites it.
        terminal.expect(b"by inbox")
        stream.feed(terminal.before + terminal.after)
        shown = "\n".join(screen.display)
        if f"└─ {chat}" in shown:
            break
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    return shown, terminal.exitstatus, terminal.before

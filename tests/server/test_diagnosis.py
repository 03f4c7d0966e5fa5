"""The checks of `actorchat doctor`: each fault is found, and a sound server has none."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import trio
from click.testing import CliRunner

from actorchat.cli import main
from actorchat.server import diagnosis
from actorchat.server.diagnosis import Finding, Verdict, diagnose
from actorchat.server.restore_plan import PLAN_FILE
from actorchat.server.serving import open_server
from actorchat.server.settings import Settings
from actorchat.storage.schema import HEAD
from tests.brokers.servers import free_port
from tests.cli.drop_privileges import permissions_apply
from tests.postgres_server import PostgresServer
from tests.server.server_under_test import run_server

pytestmark = pytest.mark.slow


async def findings(settings: Settings, now: Callable[[], float] = time.time) -> list[Finding]:
    with trio.fail_after(30):
        return [finding async for finding in diagnose(settings, now)]


async def problems(settings: Settings, now: Callable[[], float] = time.time) -> dict[str, Finding]:
    return {finding.check: finding for finding in await findings(settings, now) if finding.verdict is not Verdict.OK}


@pytest.fixture(autouse=True)
def enough_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may be short of open files and disk space."""
    monkeypatch.setattr(diagnosis, "FEW_FILES", 0)
    monkeypatch.setattr(diagnosis, "NO_FILES", 0)
    monkeypatch.setattr(diagnosis, "LOW_SPACE", 0)
    monkeypatch.setattr(diagnosis, "NO_SPACE", 0)


@pytest.fixture
async def settings(tmp_path: Path) -> Settings:
    """Settings of a server that has run once."""
    settings = Settings(data=tmp_path / "data", port=0)
    async with run_server(settings) as api:
        await api.talk()
    return attrs.evolve(settings, port=free_port())


async def test_a_sound_server_has_no_problems(settings: Settings) -> None:
    found = await findings(settings)
    assert {finding.verdict for finding in found} == {Verdict.OK}
    assert {finding.check for finding in found} >= {
        "settings",
        "data folder",
        "secret",
        "disk",
        "database",
        "clock",
        "port",
    }


def test_before_the_first_start_nothing_is_wrong_and_nothing_is_created(tmp_path: Path) -> None:
    assert trio.run(problems, Settings(data=tmp_path / "data", port=0)) == {}
    assert list(tmp_path.iterdir()) == []


async def test_a_running_server_is_found_on_its_port(settings: Settings) -> None:
    async with open_server(settings):
        [port] = [finding for finding in await findings(settings) if finding.check == "port"]
    assert port == Finding(
        Verdict.OK, "port", f"the server of this folder runs on 127.0.0.1:{settings.port}, and is ready"
    )


async def test_a_port_of_another_program_is_a_failure(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = attrs.evolve(settings, port=other.getsockname()[1])
        assert (await problems(settings))["port"].verdict is Verdict.FAIL


async def test_a_secret_that_others_may_read_is_a_failure(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "data" / "secret").chmod(0o644)
    assert "accessible to every user" in (await problems(settings))["secret"].found


async def test_damage_of_the_database_is_a_failure(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "data" / "actorchat.db"
    content = bytearray(path.read_bytes())
    content[4096 * 5 : 4096 * 6] = b"\xff" * 4096
    path.write_bytes(content)
    finding = (await problems(settings))["database"]
    assert finding.verdict is Verdict.FAIL
    assert "actorchat restore FILE --force" in finding.advice


async def test_a_postgresql_database_is_looked_at(
    settings: Settings, new_postgres: Callable[[], str], postgres_server: PostgresServer
) -> None:
    on_postgres = attrs.evolve(settings, storage=await trio.to_thread.run_sync(new_postgres))
    [fine] = [found for found in await findings(on_postgres) if found.check == "database"]
    assert fine.verdict is Verdict.OK
    assert f"schema {HEAD}; commits wait for no standby" in fine.found
    slow = (await problems(on_postgres, lambda: time.time() - 1_000))["clock"]
    assert slow.found.endswith("s behind that of the database")
    away = f"postgresql://me:hidden@127.0.0.1:{free_port()}/chat"
    failure = (await problems(attrs.evolve(settings, storage=away)))["database"]
    assert (failure.verdict, failure.advice) == (Verdict.FAIL, "start PostgreSQL, or correct the setting `storage`")
    assert "hidden" not in failure.found
    unknown = attrs.evolve(settings, storage=postgres_server.url("nowhere"))
    assert 'database "nowhere" does not exist' in (await problems(unknown))["database"].found


async def test_a_database_of_a_newer_version_is_a_failure(settings: Settings, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "data" / "actorchat.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    assert "has schema 9999" in (await problems(settings))["database"].found


async def test_a_clock_that_is_behind_the_messages_is_a_failure(settings: Settings) -> None:
    assert "behind the newest message" in (await problems(settings, lambda: time.time() - 1_000))["clock"].found


async def test_a_full_disk_is_a_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "LOW_SPACE", 2**60)
    assert (await problems(settings))["disk"].verdict is Verdict.WARN
    monkeypatch.setattr(diagnosis, "NO_SPACE", 2**60)
    assert (await problems(settings))["disk"].verdict is Verdict.FAIL


async def test_few_open_files_are_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "FEW_FILES", 2**60)
    assert (await problems(settings))["open files"].verdict is Verdict.WARN


async def test_an_interrupted_restore_is_a_warning(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "data" / PLAN_FILE).write_text("{}")
    assert (await problems(settings))["data folder"].found == "a restore was interrupted"


def test_a_folder_that_is_not_writable_is_a_failure(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for data in (tmp_path, tmp_path / "new"):
        # In this thread, the only one whose permissions apply.
        with permissions_apply():
            [finding] = diagnosis._folder(Settings(data=data))
        assert finding.verdict is Verdict.FAIL


async def test_a_folder_that_everybody_may_write_is_a_warning(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "data").chmod(0o777)
    assert (await problems(settings))["data folder"].verdict is Verdict.WARN


async def test_a_broker_that_is_away_is_a_failure_without_its_password(settings: Settings) -> None:
    port = free_port()
    found = await problems(attrs.evolve(settings, broker=(f"redis://:a-password@127.0.0.1:{port}",)))
    [(check, finding)] = found.items()
    assert (check, finding.verdict) == (f"broker redis://127.0.0.1:{port}", Verdict.FAIL)
    assert "a-password" not in str(finding)


def test_the_command_prints_a_table_and_fails_only_if_a_check_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ACTORCHAT_")]:
        monkeypatch.delenv(name)
    fine = CliRunner().invoke(main, ["doctor", "--storage", "memory://", "--port", "0"])
    assert fine.exit_code == 0, fine.output
    assert "warn  database" in fine.output
    (tmp_path / "file").write_text("")
    failed = CliRunner().invoke(main, ["doctor", "--data", "file", "--port", "0", "--json"])
    assert failed.exit_code == 1
    assert "data folder" in {row["check"] for row in json.loads(failed.output) if row["verdict"] == "fail"}
    assert CliRunner().invoke(main, ["doctor", "--port", "x"]).exit_code == 2

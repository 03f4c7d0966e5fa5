"""Both schemes of PostgreSQL's URLs are taken wherever a database is named, as libpq takes both."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from actorchat.chat.model import Policy
from actorchat.cli import main
from actorchat.nodes.factory import open_bus
from actorchat.nodes.postgres_bus import PostgresBus
from actorchat.server.backup import BackupProgress
from actorchat.server.diagnosis import diagnose
from actorchat.server.settings import InvalidSettings, Settings
from actorchat.server.settings_loader import load_settings
from actorchat.server.storage_migration import migrate_storage
from actorchat.storage import open_store
from actorchat.storage.sqlite import SqliteStore
from tests.server.server_under_test import run_server

SCHEMES = pytest.mark.parametrize("scheme", ["postgres", "postgresql"])


def with_scheme(url: str, scheme: str) -> str:
    return f"{scheme}://{url.partition('://')[2]}"


@SCHEMES
def test_a_configuration_file_may_have_either(scheme: str, tmp_path: Path) -> None:
    file = tmp_path / "actorchat.toml"
    file.write_text(f'storage = "{scheme}://db/chat"\nbus = "{scheme}://direct/chat"\nworkers = 2\n')
    settings = load_settings(file)
    assert (settings.storage_url, settings.bus_url) == (f"{scheme}://db/chat", f"{scheme}://direct/chat")
    assert isinstance(open_bus(settings.bus_url, settings.storage_url, "channel"), PostgresBus)
    assert Settings(storage=f"{scheme}://db/chat").bus_url == "postgres"


@SCHEMES
def test_a_url_without_a_database_is_refused(scheme: str) -> None:
    with pytest.raises(InvalidSettings, match="storage: expected"):
        Settings(storage=f"{scheme}://")


@SCHEMES
async def test_a_store_is_opened_by_either(scheme: str, new_postgres: Callable[[], str]) -> None:
    url = with_scheme(await trio.to_thread.run_sync(new_postgres), scheme)
    async with open_store(url, Policy()) as storage:
        assert storage.node_log is not None


@pytest.mark.slow
@SCHEMES
async def test_a_server_a_move_and_a_diagnosis_take_either(
    scheme: str, new_postgres: Callable[[], str], tmp_path: Path
) -> None:
    url = with_scheme(await trio.to_thread.run_sync(new_postgres), scheme)
    before = Settings(data=tmp_path)
    SqliteStore(Path(before.storage_url.removeprefix("sqlite:///")), Policy()).close()
    move = migrate_storage(before, url, skip_unpublished=False, progress=BackupProgress())
    assert move.rows == 0
    settings = Settings(data=tmp_path, storage=url, port=0)
    async with run_server(settings) as api:
        await api.talk()
        [database] = [found async for found in diagnose(settings) if found.check == "database"]
        assert database.found.startswith(f"{scheme}://")


@SCHEMES
@pytest.mark.parametrize("command", [("nodes",), ("actors", "tree", "--node", "one")])
def test_commands_take_either(scheme: str, command: tuple[str, ...], tmp_path: Path) -> None:
    url = f"{scheme}://someone:hidden@/chat?host={tmp_path}"
    result = CliRunner().invoke(main, [*command, "--storage", url])
    assert result.exit_code == 1
    assert result.output.startswith(f"actorchat: {scheme}://")
    assert "hidden" not in result.output

"""Backups are consistent while the server runs, damage is noticed, and a restore happens completely or not at all."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from uuid import UUID

import attrs
import pytest
import trio

from actorchat.server.backup import BackupProgress, check_backup, write_backup
from actorchat.server.restore import restore_backup
from actorchat.server.restore_plan import PLAN_FILE, BackupFailed
from actorchat.server.serving import open_server
from actorchat.server.settings import AttachmentSettings, LimitSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, operator, run_server

pytestmark = pytest.mark.slow

QUIET = BackupProgress()
FREE = LimitSettings(messages_per_second=0)


def settings_of(data: Path, secret: str | None = SECRET) -> Settings:
    return Settings(data=data, port=0, secret=secret, limits=FREE)


async def upload(api: ApiClient, token: str, content: bytes) -> str:
    answer = await api.http.post(
        "/api/attachments", headers={"Authorization": f"Bearer {token}"}, files={"file": ("a.txt", content)}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["uuid"])


async def texts(api: ApiClient, chat: UUID) -> list[str]:
    answer = await api.call("GET", f"/api/chats/{chat}/messages?limit=200", operator())
    assert answer.status_code == 200, answer.text
    return [message["text"] for message in answer.json()["messages"]]


@attrs.frozen
class Talk:
    """A backup of a server with one chat: the message `file` with an attachment."""

    settings: Settings
    backup: Path
    chat: UUID


@asynccontextmanager
async def backed_up(folder: Path) -> AsyncIterator[Talk]:
    settings, target = settings_of(folder / "data"), folder / "b.tar"
    async with run_server(settings) as api:
        visitor, chat = await api.visit()
        file = await upload(api, visitor, b"content of the file")
        await api.write(visitor, chat, "file", attachments=[file])
        await trio.to_thread.run_sync(partial(write_backup, settings, target, overwrite=False, progress=QUIET))
        await api.write(visitor, chat, "later")
    yield Talk(settings, target, chat)


async def restore(talk: Talk, data: Path, *, force: bool = False) -> None:
    call = partial(restore_backup, settings_of(data), talk.backup, force=force, progress=QUIET)
    await trio.to_thread.run_sync(call)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"actorchat.db.lock", "actors.sock"}


async def test_a_backup_of_a_running_server_restores_its_messages_and_files(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as talk:
        await restore(talk, tmp_path / "new")
        async with run_server(settings_of(tmp_path / "new")) as api:
            answer = await api.call("GET", f"/api/chats/{talk.chat}/messages", operator())
            [message] = answer.json()["messages"]
            assert message["text"] == "file"
            assert (await api.http.get(message["attachments"][0]["url"])).content == b"content of the file"


async def test_a_backup_under_load_has_a_prefix_of_the_messages(tmp_path: Path) -> None:
    settings, target = settings_of(tmp_path / "data"), tmp_path / "b.tar"
    async with run_server(settings) as api:
        visitor, chat = await api.visit()
        await api.write(visitor, chat, "0")
        done = False

        async def back_up() -> None:
            nonlocal done
            await trio.to_thread.run_sync(partial(write_backup, settings, target, overwrite=False, progress=QUIET))
            done = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(back_up)
            sent = 1
            while not done:
                assert (await api.write(visitor, chat, str(sent))).status_code == 201
                sent += 1
        assert await texts(api, chat) == [str(number) for number in range(sent)][-200:]
    await trio.to_thread.run_sync(
        partial(restore_backup, settings_of(tmp_path / "new"), target, force=False, progress=QUIET)
    )
    async with run_server(settings_of(tmp_path / "new")) as api:
        found = await texts(api, chat)
        assert found == [str(number) for number in range(len(found))]
        assert 1 <= len(found) <= sent


async def test_deleted_data_is_not_in_a_backup(tmp_path: Path) -> None:
    settings, target = settings_of(tmp_path / "data"), tmp_path / "b.tar"
    async with run_server(settings) as api:
        visitor, chat = await api.visit()
        await api.write(visitor, chat, "an unmistakable text " * 100)
    with closing(sqlite3.connect(tmp_path / "data" / "actorchat.db")) as database:
        database.execute("PRAGMA secure_delete=OFF")
        database.execute("DELETE FROM messages")
        database.commit()
    assert b"an unmistakable text" in (tmp_path / "data" / "actorchat.db").read_bytes()
    write_backup(settings, target, overwrite=False, progress=QUIET)
    assert b"an unmistakable text" not in target.read_bytes()


async def test_a_backup_can_be_read_by_its_owner_only_and_nothing_else_is_left(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as talk:
        assert stat.S_IMODE(talk.backup.stat().st_mode) == 0o600
        assert names_in(tmp_path) == {"data", "b.tar"}


async def test_an_existing_backup_is_replaced_only_on_demand_and_never_by_a_failure(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as talk:
        before = talk.backup.read_bytes()
        with pytest.raises(BackupFailed, match="exists: name another file, or replace it with --force"):
            write_backup(talk.settings, talk.backup, overwrite=False, progress=QUIET)
        (tmp_path / "data" / "actorchat.db").write_bytes(b"no database, but more than a header" * 100)
        with pytest.raises(BackupFailed, match="is not an SQLite database, or is damaged"):
            write_backup(talk.settings, talk.backup, overwrite=True, progress=QUIET)
        assert talk.backup.read_bytes() == before
        assert names_in(tmp_path) == {"data", "b.tar"}


async def test_a_lost_file_is_named_and_a_deleted_one_is_not(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as talk:
        [stored] = [path for path in (tmp_path / "data" / "attachments").rglob("*") if len(path.name) == 32]
        stored.unlink()
        backup = write_backup(talk.settings, tmp_path / "c.tar", overwrite=False, progress=QUIET)
        assert backup.missing == (f"attachments/{stored.parent.name}/{stored.name}",)
        assert check_backup(tmp_path / "c.tar", QUIET).messages == 2


async def test_any_damage_of_a_backup_is_noticed(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as talk:
        sound = talk.backup.read_bytes()
        check_backup(talk.backup, QUIET)
        for at in (
            1_100,
            3_000,
            len(sound) // 2,
            sound.rindex(b"content of the file"),
            sound.rindex(b"SHA256SUMS") + 600,
        ):
            talk.backup.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            with pytest.raises(BackupFailed, match=r"is damaged|is not a backup"):
                check_backup(talk.backup, QUIET)
        for size in (
            0,
            100,
            700,
            5_000,
            len(sound) // 2,
            sound.rindex(b"SHA256SUMS"),
            sound.rindex(b"SHA256SUMS") + 600,
        ):
            talk.backup.write_bytes(sound[:size])
            with pytest.raises(BackupFailed, match=r"is damaged|is not a backup"):
                await restore(talk, tmp_path / "new")
            assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../evil", "attachments/ab/../../evil", "/etc/evil", "secret/x", "config.toml"])
def test_a_backup_with_a_foreign_name_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for each, content in (("backup.json", MANIFEST), (name, b"x")):
            (tmp_path / "content").write_bytes(content)
            archive.add(tmp_path / "content", each)
    with pytest.raises(BackupFailed, match="is not a backup of actorchat: it contains"):
        restore_backup(settings_of(tmp_path / "new"), tmp_path / "b.tar", force=False, progress=QUIET)
    assert not (tmp_path / "new").exists()


MANIFEST = (
    b'{"format": "actorchat-backup", "version": 1, "created": "", "actorchat": "", "schema": "", "chats": 0,'
    b' "messages": 0}'
)


async def test_a_backup_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        (tmp_path / "content").write_bytes(MANIFEST.replace(b'"version": 1', b'"version": 2'))
        archive.add(tmp_path / "content", "backup.json")
    with pytest.raises(BackupFailed, match="has version 2 of the backup format"):
        check_backup(tmp_path / "b.tar", QUIET)


async def test_a_restore_is_refused_while_a_server_runs(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as talk:
        async with open_server(talk.settings):
            with pytest.raises(BackupFailed, match="another server uses"):
                await restore(talk, tmp_path / "data", force=True)
        async with run_server(talk.settings) as api:
            assert await texts(api, talk.chat) == ["file", "later"]


async def test_existing_chats_are_replaced_only_with_force_and_kept_aside(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as talk:
        data = tmp_path / "data"
        with pytest.raises(BackupFailed, match="exists: restore into an empty folder, or use --force"):
            await restore(talk, data)
        await restore(talk, data, force=True)
        [kept] = data.glob("before-restore-*")
        # The search index is there if the server had the time to make it.
        assert {path.name for path in kept.iterdir()} - {"actorchat-search.db"} == {"actorchat.db", "attachments"}
        async with run_server(talk.settings) as api:
            assert await texts(api, talk.chat) == ["file"]
        async with run_server(settings_of(kept)) as api:
            assert await texts(api, talk.chat) == ["file", "later"]


async def test_a_second_restore_in_one_second_keeps_both_older_states(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as talk:
        for _ in range(3):
            await restore(talk, tmp_path / "data", force=True)
        assert len(list((tmp_path / "data").glob("before-restore-*"))) == 3


class Killed(BaseException):
    """Ends the code under test at once, as a kill would."""


async def test_a_restore_that_is_killed_takes_effect_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backed_up(tmp_path) as talk:
        states = set[str]()
        for calls in range(1, 100):
            data = tmp_path / f"{calls}"
            shutil.copytree(tmp_path / "data", data, ignore=shutil.ignore_patterns("*.sock"))
            left = calls

            def count() -> None:
                nonlocal left
                left -= 1
                if left <= 0:
                    raise Killed

            with monkeypatch.context() as patch:
                for name in ("rename", "replace", "fsync", "rmdir", "unlink", "mkdir", "chown"):
                    patch.setattr(os, name, _counted(getattr(os, name), count))
                try:
                    # In this thread, so that nothing else is counted.
                    restore_backup(settings_of(data), talk.backup, force=True, progress=QUIET)
                    ended = True
                except Killed:
                    ended = False
            pending = (data / PLAN_FILE).exists()
            async with run_server(settings_of(data)) as api:
                found = await texts(api, talk.chat)
                assert found in (["file", "later"], ["file"]), calls
                state = "restored" if found == ["file"] else "old"
                answer = await api.call("GET", f"/api/chats/{talk.chat}/messages", operator())
                assert (await api.http.get(answer.json()["messages"][0]["attachments"][0]["url"])).status_code == 200
            assert not (data / PLAN_FILE).exists()
            if pending:
                assert state == "restored"
            states.add(f"{state}, {'completed by the server' if pending else 'ended' if ended else 'killed'}")
            if ended:
                break
        assert {"old, killed", "restored, completed by the server", "restored, ended"} <= states


def _counted(call: object, count: object) -> object:
    def counted(*arguments: object, **options: object) -> object:
        count()  # type: ignore[operator]
        return call(*arguments, **options)  # type: ignore[operator]

    return counted


async def test_the_secret_is_restored_with_the_rights_of_a_secret(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data", secret=None)
    async with open_server(settings):
        pass
    secret = (tmp_path / "data" / "secret").read_bytes()
    backup = write_backup(settings, tmp_path / "b.tar", overwrite=False, progress=QUIET)
    assert backup.has_secret
    restore_backup(settings_of(tmp_path / "new", None), tmp_path / "b.tar", force=False, progress=QUIET)
    assert (tmp_path / "new" / "secret").read_bytes() == secret
    async with open_server(settings_of(tmp_path / "new", None)):
        pass


async def test_a_database_elsewhere_is_backed_up_and_restored_to_its_place(tmp_path: Path) -> None:
    def elsewhere(name: str) -> Settings:
        (tmp_path / f"{name}-db").mkdir(exist_ok=True)
        return attrs.evolve(settings_of(tmp_path / name), storage=f"sqlite:///{tmp_path}/{name}-db/chat.db")

    async with run_server(elsewhere("one")) as api:
        visitor, chat = await api.visit()
        await api.write(visitor, chat, "hello")
    write_backup(elsewhere("one"), tmp_path / "b.tar", overwrite=False, progress=QUIET)
    for force in (False, True):
        restore_backup(elsewhere("two"), tmp_path / "b.tar", force=force, progress=QUIET)
    assert {path.name.partition("-")[0] for path in (tmp_path / "two-db").iterdir()} == {
        "chat.db",
        "chat.db.lock",
        "before",
    }
    async with run_server(elsewhere("two")) as api:
        assert await texts(api, chat) == ["hello"]


def test_without_a_database_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match="memory:// stores nothing"):
        write_backup(Settings(storage="memory://"), tmp_path / "b.tar", overwrite=False, progress=QUIET)
    with pytest.raises(BackupFailed, match="does not exist: is --data the folder of the server"):
        write_backup(settings_of(tmp_path / "none"), tmp_path / "b.tar", overwrite=False, progress=QUIET)
    with pytest.raises(BackupFailed, match=r"with pg_dump or pgBackRest, and with it the folder .*data/attachments"):
        write_backup(
            Settings(storage="postgresql://db/chat", data=tmp_path / "data"),
            tmp_path / "b.tar",
            overwrite=False,
            progress=QUIET,
        )
    assert list(tmp_path.iterdir()) == []


async def test_files_in_a_bucket_are_not_in_the_backup_and_not_restored_from_one(tmp_path: Path) -> None:
    store = AttachmentSettings(store="s3://key:secret@bucket?endpoint=http://127.0.0.1:1")
    async with backed_up(tmp_path) as talk:
        in_bucket = attrs.evolve(talk.settings, attachments=store)
        target = tmp_path / "bucket.tar"
        call = partial(write_backup, in_bucket, target, overwrite=False, progress=QUIET)
        written = await trio.to_thread.run_sync(call)
        assert (written.files, written.missing, written.manifest.messages) == (0, (), 2)
        other = attrs.evolve(in_bucket, data=tmp_path / "other")
        restored = partial(restore_backup, other, target, force=False, progress=QUIET)
        await trio.to_thread.run_sync(restored)
        again = attrs.evolve(in_bucket, data=tmp_path / "again")
        with pytest.raises(BackupFailed, match=r"the backup has files, but attachments\.store names a bucket"):
            restore_backup(again, talk.backup, force=False, progress=QUIET)
        assert not (tmp_path / "again").exists() or names_in(tmp_path / "again") == set()


async def test_the_files_of_a_restored_backup_belong_to_its_database(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as talk:
        await restore(talk, tmp_path / "data", force=True)
        # The folder gets the mark of the database again.
        async with run_server(talk.settings) as api:
            visitor, _ = await api.visit()
            await upload(api, visitor, b"x")
        assert (tmp_path / "data" / "attachments" / "owner").exists()

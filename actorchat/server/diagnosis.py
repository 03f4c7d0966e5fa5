"""Checks whether a server can run, and runs well, on this machine with given settings. Changes nothing.

Each check is a function that yields findings. Checks run beside a running server without disturbing it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

import attrs
import httpx
import trio

from actorchat.actor_tree import InspectionRequest
from actorchat.brokers import BrokerUnavailable, BrokerUrl, open_broker
from actorchat.chat.ports import StorageUnavailable
from actorchat.server.auth import read_secret
from actorchat.server.backup_archive import FOLDER_FILES
from actorchat.server.bootstrap import check_files, file_warnings
from actorchat.server.file_descriptors import RESERVE
from actorchat.server.inspection import InspectionFailed, inspect_server
from actorchat.server.restore_plan import PLAN_FILE
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings, Settings, broker_urls
from actorchat.storage.connections import connect
from actorchat.storage.error_messages import describe_os_error, describe_sqlite_error
from actorchat.storage.move_record import moved_to
from actorchat.storage.schema import HEAD
from actorchat.storage.schema_upgrade import check_owner
from actorchat.storage.store import StoreUrlError
from actorchat.transports.listener import bind

__all__ = ["Finding", "Verdict", "diagnose"]

_MIB: Final = 1_048_576
LOW_SPACE: Final = 1_024 * _MIB
"""Free bytes below which the disk gets a warning."""

NO_SPACE: Final = 128 * _MIB
"""Free bytes below which the server refuses uploads."""

FEW_FILES: Final = 4_096
NO_FILES: Final = 256
"""Limits for open files that get a warning, and that are too low to serve anybody."""

LARGE_LOG: Final = 512 * _MIB
CLOCK_SLACK: Final = 120.0
"""Seconds by which the newest message may be ahead of the clock, because of leap seconds and small corrections."""

CHECK_SECONDS: Final = 10.0
"""How long a broker or a running server may take to answer."""

_NETWORK_DISKS: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "afs"})


class Verdict(StrEnum):
    """`WARN`: the server runs, but something should be changed. `FAIL`: it does not start, or loses a function."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@attrs.frozen
class Finding:
    """The result of one check: what was checked, what was found, and what to do about it ("" if nothing)."""

    verdict: Verdict
    check: str
    found: str
    advice: str = ""


async def diagnose(settings: Settings, now: Callable[[], float] = time.time) -> AsyncIterator[Finding]:
    """Yield the findings of all checks. `now` returns epoch seconds."""
    # Reading every page of a large database takes a while.
    for finding in await trio.to_thread.run_sync(_of_this_machine, settings, now(), abandon_on_cancel=True):
        yield finding
    yield await _port(settings)
    for url in broker_urls(settings):
        yield await _broker(url)


def _of_this_machine(settings: Settings, now: float) -> list[Finding]:
    found = [finding for check in (_settings, _open_files, _folder, _secret, _disk) for finding in check(settings)]
    return [*found, *_database(settings, now)]


def _ok(check: str, found: str) -> Finding:
    return Finding(Verdict.OK, check, found)


def _warn(check: str, found: str, advice: str) -> Finding:
    return Finding(Verdict.WARN, check, found, advice)


def _fail(check: str, found: str, advice: str) -> Finding:
    return Finding(Verdict.FAIL, check, found, advice)


def _settings(settings: Settings) -> Iterator[Finding]:
    faults = [fault for fault in check_files(settings) if fault.name not in ("data", "secret")]
    for fault in faults:
        yield _fail("settings", str(fault), "correct the setting; actorchat check-config checks it again")
    for warning in file_warnings(settings):
        yield _warn("settings", warning, "protect the file")
    if not faults:
        yield _ok("settings", "valid")


def _open_files(settings: Settings) -> Iterator[Finding]:
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        yield _ok("open files", "unlimited")
        return
    found = f"{hard:,}, for about {max(0, hard - RESERVE):,} connections"
    advice = "raise the hard limit: LimitNOFILE=65536 in the systemd unit, --ulimit nofile=65536:65536 for docker"
    verdict = Verdict.FAIL if hard < NO_FILES else Verdict.WARN if hard < FEW_FILES else Verdict.OK
    yield Finding(verdict, "open files", found, "" if verdict is Verdict.OK else advice)


def _folder(settings: Settings) -> Iterator[Finding]:
    if settings.folder is None:
        yield _ok("data folder", "none: nothing is stored")
        return
    folder = settings.folder.absolute()
    if not os.path.lexists(folder):
        existing = next(path for path in folder.parents if os.path.lexists(path))
        if os.access(existing, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            yield _ok("data folder", f"{folder} is created at the first start")
        else:
            yield _fail("data folder", f"{existing} is not writable", f"create {folder} for the user of the server")
        return
    draft = folder / f".doctor-{os.getpid()}"
    try:
        with draft.open("xb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        draft.unlink()
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        yield _fail("data folder", describe_os_error(draft, error), "run the server as the owner of the folder")
        return
    if os.name == "posix" and stat.S_IMODE(folder.stat().st_mode) & 0o022:
        yield _warn("data folder", f"{folder} is writable for other users", f"chmod go-w {folder}")
    else:
        yield _ok("data folder", f"{folder} is writable")
    kind = _disk_type(folder)
    if kind in _NETWORK_DISKS:
        advice = "use a local disk: SQLite needs locks and a shared memory that network disks do not provide reliably"
        yield _warn("data folder", f"{folder} is on a network disk ({kind})", advice)
    if (folder / PLAN_FILE).exists():
        advice = "start the server, or repeat the restore: either completes it"
        yield _warn("data folder", "a restore was interrupted", advice)


def _disk_type(folder: Path) -> str:
    """Return the type of the file system, "" if it is unknown."""
    found, kind = "", ""
    try:
        with open("/proc/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _, place, type_, *_ = line.split(" ")
                place = place.replace("\\040", " ")
                if len(place) >= len(found) and folder.is_relative_to(place):
                    found, kind = place, type_
    except (OSError, ValueError):
        return ""
    return kind


def _secret(settings: Settings) -> Iterator[Finding]:
    if settings.secret is not None:
        yield _ok("secret", "set in the settings")
        return
    if settings.folder is None:
        yield _ok("secret", "a new one for each start")
        return
    for name in FOLDER_FILES:
        path = settings.folder / name
        try:
            read_secret(settings.folder)
        except FileNotFoundError:
            yield _ok(name, "is created at the first start")
        except InvalidSettings as error:
            yield _fail(name, error.faults[0].detail, "protect or replace the secret")
        except OSError as error:
            yield _fail(name, describe_os_error(path, error), "run the server as the owner of the folder")
        else:
            yield _ok(name, f"{path} is readable for its owner only")


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = (settings.folder or DEFAULT_DATA).absolute()
    places = {"disk": folder}
    if settings.folder is not None and (database := settings.database_file) is not None:
        places |= {"disk of the database": database.parent, "disk of the files": (folder / "attachments").resolve()}
    devices = set[int]()
    for name, place in places.items():
        existing = next(path for path in (place, *place.parents) if path.exists())
        device = existing.stat().st_dev
        if device in devices:
            continue
        devices.add(device)
        usage = shutil.disk_usage(existing)
        found = f"{usage.free / _MIB / 1024:,.1f} GiB of {usage.total / _MIB / 1024:,.1f} GiB free at {existing}"
        if usage.free < NO_SPACE:
            yield _fail(name, found, "free some space: uploads are refused, and soon messages too")
        elif usage.free < LOW_SPACE:
            yield _warn(name, found, "free some space")
        else:
            yield _ok(name, found)
        if sys.platform != "win32" and (inodes := os.statvfs(existing)).f_files and inodes.f_favail < 1_000:
            yield _warn(name, f"only {inodes.f_favail} more files fit at {existing}", "delete files that nobody needs")


def _database(settings: Settings, now: float) -> Iterator[Finding]:
    path = settings.database_file
    if path is None:
        if settings.storage_url == "memory://":
            yield _warn("database", "memory:// loses everything at a restart", "remove the setting `storage`")
        else:
            yield from _postgres(settings.storage_url, now)
        return
    if not path.exists() or not path.stat().st_size:
        yield _ok("database", f"{path} is created at the first start")
        return
    restore = "stop the server and restore a backup: actorchat restore FILE --force"
    try:
        target = moved_to(path)
        with closing(connect(path, read_only=True)) as connection:
            version = check_owner(connection, path)
            results = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
            newest = None if version is None else connection.execute("SELECT max(time) FROM writers").fetchone()[0]
    except StoreUrlError as error:
        yield _fail("database", str(error), "name another file, or restore a backup")
        return
    except sqlite3.Error as error:
        yield _fail("database", str(describe_sqlite_error(path, error)), restore)
        return
    if results != ["ok"]:
        yield _fail("database", f"{path} is damaged: {'; '.join(results)}", restore)
    elif version is not None and version > HEAD:
        found = f"{path} has schema {version}, but this version knows schemas up to {HEAD}"
        yield _fail("database", found, "use the newer version of actorchat that wrote it")
    elif target is not None:
        yield _fail("database", f"the chats of {path} were moved to {target}", "make that URL the setting `storage`")
    else:
        upgrade = "" if version in (None, HEAD) else f", which the next start upgrades to {HEAD}"
        yield _ok("database", f"{path} is intact, schema {version}{upgrade}")
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size > LARGE_LOG:
        found = f"the write-ahead log has {log.stat().st_size // _MIB} MiB"
        yield _warn("database", found, "end the program that has been reading the database for a long time")
    if newest is not None and newest > now + CLOCK_SLACK:
        found = f"the clock is {newest - now:,.0f} s behind the newest message"
        yield _fail("clock", found, "correct the clock of this machine, for example with NTP")
    else:
        yield _ok("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


def _postgres(url: str, now: float) -> Iterator[Finding]:
    from actorchat.storage.postgres.inspecting import inspect_database

    try:
        state = inspect_database(url, now)
    except StoreUrlError as error:
        yield _fail("database", str(error), "name another database, or restore a backup")
        return
    except StorageUnavailable as error:
        yield _fail("database", str(error), "start PostgreSQL, or correct the setting `storage`")
        return
    where = f"{state.name} on PostgreSQL {state.version}"
    if state.schema is None:
        yield _ok("database", f"{where} gets its tables at the first start")
    elif state.schema > HEAD:
        found = f"{where} has schema {state.schema}, but this version knows schemas up to {HEAD}"
        yield _fail("database", found, "use the newer version of actorchat that wrote it")
    else:
        upgrade = "" if state.schema == HEAD else f", which the next start upgrades to {HEAD}"
        standbys = "each commit waits for a standby" if state.standbys else "commits wait for no standby"
        yield _ok("database", f"{where}, schema {state.schema}{upgrade}; {standbys}")
    if abs(state.behind) > CLOCK_SLACK:
        found = f"the clock is {state.behind:,.0f} s behind that of the database"
        yield _fail("clock", found, "correct the clocks of both machines, for example with NTP")
    else:
        yield _ok("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


async def _port(settings: Settings) -> Finding:
    if settings.unix is not None:
        folder = settings.unix.absolute().parent
        if os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            return _ok("port", f"a Unix socket at {settings.unix}")
        return _fail("port", f"{folder} does not exist or is not writable", "create it for the user of the server")
    if settings.port is None:
        return _ok("port", "the server does not listen")
    where = f"{settings.host}:{settings.port}"
    try:
        for sock in await bind(settings.host, settings.port):
            sock.close()
    except (OSError, UnicodeError) as error:
        if await _is_ours(settings):
            return await _running(settings, where)
        found = f"can't listen on {where}: {getattr(error, 'strerror', None) or error}"
        return _fail("port", found, "end the program that uses it, or choose another one with --port")
    return _ok("port", f"{where} is free")


async def _is_ours(settings: Settings) -> bool:
    """Whether a server runs on the data folder."""
    if settings.folder is None:
        return False
    with trio.move_on_after(CHECK_SECONDS):
        try:
            await inspect_server(settings.folder, InspectionRequest(limit=1))
        except InspectionFailed as error:
            # A server of another user can't be inspected.
            return "another user" in str(error)
        return True
    return False


async def _running(settings: Settings, where: str) -> Finding:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    scheme = "http" if settings.tls_cert is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}/health/ready"
    try:
        # The certificate is for the public name, and not for the address that is used here.
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=CHECK_SECONDS) as http:  # noqa: S501 - see above
            answer = await http.get(url)
            problem = "" if answer.status_code == 200 else str(answer.json()["error"]["detail"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        found = f"the server of this folder runs, but {where} does not answer: {error}"
        return _fail("port", found, "read the log of the server")
    if problem:
        return _fail("port", f"the server of this folder runs on {where}: {problem}", "read the log of the server")
    return _ok("port", f"the server of this folder runs on {where}, and is ready")


async def _broker(url: BrokerUrl) -> Finding:
    check = f"broker {url.name}"
    if url.scheme == "memory":
        return _ok(check, "in the process of the server")
    advice = "start the broker or correct the setting `broker`; messages wait in storage meanwhile"
    with trio.move_on_after(CHECK_SECONDS):
        try:
            async with open_broker(url).connect() as connection:
                await connection.ping()
        except BrokerUnavailable as error:
            return _fail(check, str(error), advice)
        return _ok(check, "takes messages")
    return _fail(check, f"does not answer within {CHECK_SECONDS:.0f} s", advice)

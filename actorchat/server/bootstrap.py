"""Owns what must be there before a server starts: its folder, its keys, its TLS certificate.

Refuses to know what they are used for. Reads and writes a few small files, at start-up only.
"""

from __future__ import annotations

import os
import shlex
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from actorchat.server.auth import (
    SECRET_FILE,
    PublicKey,
    Tokens,
    drafted_secret,
    load_public_key,
    new_secret,
    read_secret,
)
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings, SettingFault, Settings
from actorchat.storage.error_messages import describe_os_error

__all__ = [
    "StartFailed",
    "check_files",
    "check_public_key",
    "file_warnings",
    "missing_files",
    "new_folder",
    "prepare_tokens",
    "tls_context",
]


class StartFailed(Exception):  # noqa: N818 - says what happened
    """The server can't start here and now; the text is one line for whoever runs it."""


def check_files(settings: Settings) -> tuple[SettingFault, ...]:
    """What is wrong with the files that the settings name, and with the folder of a server that serves them."""
    return tuple(_file_faults(settings))


def missing_files(values: Mapping[str, object]) -> Iterator[SettingFault]:
    """The files that are not there, of settings that may be bad otherwise."""
    for name in ("tls_cert", "tls_key", "public_key"):
        value = values.get(name)
        if isinstance(value, str | Path) and not os.path.isfile(path := os.path.expanduser(value)):
            yield SettingFault(name, f"there is no file {path}")


def _file_faults(settings: Settings) -> Iterator[SettingFault]:
    for check in (tls_context, _public_key, _secret):
        try:
            check(settings)
        except InvalidSettings as error:
            yield from error.faults
    folder = settings.folder or DEFAULT_DATA
    try:
        folder = folder.absolute()
    except FileNotFoundError:
        yield SettingFault("data", f"the current folder, for {folder}, was deleted")
        return
    # What is not there yet is made in the nearest folder that is.
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.path.isdir(there):
        yield SettingFault("data", f"{there} is no folder")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield SettingFault("data", f"{there} may not be written to")


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or later with the configured certificate, None without one. Raises InvalidSettings."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    missing = tuple(missing_files({"tls_cert": settings.tls_cert, "tls_key": settings.tls_key}))
    if missing:
        raise InvalidSettings(missing)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        detail = f"{settings.tls_cert} and {settings.tls_key} are no certificate with its key: {error}"
        raise InvalidSettings((SettingFault("tls_cert", detail),)) from None
    return context


def _no_password() -> str:
    # Without this OpenSSL would ask at the terminal.
    raise ValueError("the key is encrypted")


def _public_key(settings: Settings) -> PublicKey | None:
    return None if settings.public_key is None else load_public_key(settings.public_key)


def _secret(settings: Settings) -> None:
    folder = settings.folder or DEFAULT_DATA
    # Where there is none, a server makes it.
    if settings.secret is None and os.path.lexists(folder / SECRET_FILE):
        try:
            read_secret(folder)
        except OSError as error:
            fault = describe_os_error(Path(error.filename or folder), error)
            raise InvalidSettings((SettingFault("secret", fault),)) from None


def file_warnings(settings: Settings) -> Iterator[str]:
    """What may be wrong with the files that the settings name, though a server starts with them."""
    key = settings.tls_key
    if key is not None and os.name == "posix":
        with suppress(OSError):
            mode = key.stat().st_mode
            if mode & stat.S_IROTH:
                yield f"tls_key: {key} may be read by everybody: type chmod o-rwx {shlex.quote(str(key))}"


def check_public_key(settings: Settings) -> None:
    """Raises InvalidSettings if there is none where the settings say."""
    _public_key(settings)


@contextmanager
def new_folder(folder: Path | None) -> Iterator[None]:
    """Make the data folder, for its owner only, where there is none; if the block fails, remove what was made.

    Only empty folders are removed. Raises StartFailed.
    """
    if folder is None:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        _make(folder)
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        kind = "a symbolic link that leads to no folder" if folder.is_symlink() else "no folder"
        raise StartFailed(f"the data folder can't be used: {folder} is {kind}") from None
    except FileNotFoundError:
        # Missing parents are made too.
        raise StartFailed(f"the data folder can't be used: the current folder, for {folder}, was deleted") from None
    except OSError as error:
        raise StartFailed(f"the data folder can't be used: {describe_os_error(folder, error)}") from None


@contextmanager
def prepare_tokens(settings: Settings, wall: Callable[[], float] = time.time) -> Iterator[Callable[[], Tokens]]:
    """What makes the signer and judge of tokens. Only when it is called a new secret is put into the data folder.

    `wall` gives epoch seconds. Raises StartFailed.
    """
    folder = settings.folder
    public_key = _public_key(settings)
    age = settings.limits.session_age

    def tokens(secret: str | bytes) -> Tokens:
        return Tokens(secret, public_key, now=wall, session_age=age)

    if settings.secret is not None or folder is None:
        secret = settings.secret or new_secret()
        yield lambda: tokens(secret)
        return
    with ExitStack() as stack:
        try:
            ensure = stack.enter_context(drafted_secret(folder))
        except OSError as error:
            raise _unusable(folder, error) from None

        def make() -> Tokens:
            try:
                return tokens(ensure())
            except OSError as error:
                raise _unusable(folder, error) from None

        yield make


def _unusable(folder: Path, error: OSError) -> StartFailed:
    fault = describe_os_error(Path(error.filename or folder), error)
    return StartFailed(f"the data folder can't be used: {fault}")

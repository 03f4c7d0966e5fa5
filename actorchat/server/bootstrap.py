"""Checks and prepares the files that a server needs to start: data folder, secret, public key and TLS certificate."""

from __future__ import annotations

import os
import shlex
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from actorchat.server.auth import (
    SECRET_FILE,
    Tokens,
    drafted_secret,
    new_secret,
    previous_secret,
    read_secret,
)
from actorchat.server.keys import load_public_keys
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings, SettingFault, Settings
from actorchat.storage.error_messages import describe_os_error

__all__ = [
    "ServerEnded",
    "StartFailed",
    "check_files",
    "check_public_keys",
    "file_warnings",
    "missing_files",
    "new_folder",
    "prepare_tokens",
    "previous_secrets",
    "tls_context",
]


_RELATIVE: Final = "is relative to the current folder, which was deleted"


class StartFailed(Exception):  # noqa: N818 - says what happened
    """The server can't start. The text is one line for the administrator."""


class ServerEnded(Exception):  # noqa: N818 - says what happened
    """The running server has stopped by itself. The text is one line for the administrator."""


def check_files(settings: Settings) -> tuple[SettingFault, ...]:
    """Return all faults of the files that the settings name, and of the data folder. Writes nothing."""
    return tuple(_file_faults(settings))


def missing_files(values: Mapping[str, object]) -> Iterator[SettingFault]:
    """Yield a fault for each missing file. `values` are raw settings, which may be invalid otherwise."""
    for name in ("tls_cert", "tls_key", "public_key"):
        value = values.get(name)
        if isinstance(value, str | Path) and not os.path.isfile(path := os.path.expanduser(value)):
            yield SettingFault(name, f"the file {path} does not exist")


def _file_faults(settings: Settings) -> Iterator[SettingFault]:
    for check in (tls_context, _public_keys, _secret):
        try:
            check(settings)
        except InvalidSettings as error:
            yield from error.faults
    folder = settings.folder or DEFAULT_DATA
    try:
        folder = folder.absolute()
    except FileNotFoundError:
        yield SettingFault("data", f"{folder} {_RELATIVE}")
        return
    # The server creates missing folders in the nearest existing one.
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.path.isdir(existing):
        yield SettingFault("data", f"{existing} is not a folder")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield SettingFault("data", f"{existing} is not writable")


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return a context for TLS 1.2 or later with the configured certificate, None without one.

    Raises InvalidSettings if the certificate or its key can't be loaded.
    """
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
        detail = f"{settings.tls_cert} and {settings.tls_key} are not a certificate and its key: {error}"
        raise InvalidSettings((SettingFault("tls_cert", detail),)) from None
    return context


def _no_password() -> str:
    # Without a callback, OpenSSL would ask for the password on the terminal.
    raise ValueError("the key is encrypted")


def _public_keys(settings: Settings) -> None:
    load_public_keys(settings)


def _secret(settings: Settings) -> None:
    folder = settings.folder or DEFAULT_DATA
    # A missing secret is not a fault: the server creates it.
    if settings.secret is None and os.path.lexists(folder / SECRET_FILE):
        try:
            read_secret(folder)
        except OSError as error:
            fault = describe_os_error(Path(error.filename or folder), error)
            raise InvalidSettings((SettingFault("secret", fault),)) from None


def file_warnings(settings: Settings) -> Iterator[str]:
    """Yield a warning for each problem of the files in the settings that does not keep the server from starting."""
    key = settings.tls_key
    if key is not None and os.name == "posix":
        with suppress(OSError):
            mode = key.stat().st_mode
            if mode & stat.S_IROTH:
                yield f"tls_key: every user can read {key}: run chmod o-rwx {shlex.quote(str(key))}"


def check_public_keys(settings: Settings) -> None:
    """Raise InvalidSettings if a configured public key can't be loaded."""
    load_public_keys(settings)


@contextmanager
def new_folder(folder: Path | None) -> Iterator[None]:
    """Create the data folder if it is missing, with mode 0700. If the block fails, remove it again if it is empty.

    Raises StartFailed.
    """
    if folder is None:
        yield
        return
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        _create(folder)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise


def _create(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        kind = "a symbolic link that does not lead to a folder" if folder.is_symlink() else "not a folder"
        raise StartFailed(f"the data folder can't be used: {folder} is {kind}") from None
    except FileNotFoundError:
        # mkdir creates missing parents, except in a current folder that was deleted and in file systems like /proc.
        reason = "can't be created there" if folder.is_absolute() else _RELATIVE
        raise StartFailed(f"the data folder can't be used: {folder} {reason}") from None
    except OSError as error:
        raise StartFailed(f"the data folder can't be used: {describe_os_error(folder, error)}") from None


@contextmanager
def prepare_tokens(settings: Settings, wall: Callable[[], float] = time.time) -> Iterator[Callable[[], Tokens]]:
    """Yield a function that returns the server's `Tokens`. A new secret is stored only when it is called.

    `wall` returns epoch seconds. Raises StartFailed, and InvalidSettings if the secret or the public key is invalid.
    """
    folder = settings.folder
    public_keys = load_public_keys(settings)
    previous = previous_secrets(settings)
    age = settings.limits.session_age

    def tokens_with(secret: str | bytes) -> Tokens:
        return Tokens(secret, public_keys, previous=previous, now=wall, session_age=age)

    if settings.secret is not None or folder is None:
        secret = settings.secret or new_secret()
        yield lambda: tokens_with(secret)
        return
    with ExitStack() as stack:
        try:
            publish_secret = stack.enter_context(drafted_secret(folder))
        except OSError as error:
            raise _unusable(folder, error) from None

        def make_tokens() -> Tokens:
            try:
                return tokens_with(publish_secret())
            except OSError as error:
                raise _unusable(folder, error) from None

        yield make_tokens


def previous_secrets(settings: Settings) -> tuple[bytes, ...]:
    """Return the secrets that signed tokens before. Raises StartFailed, and InvalidSettings if one is weak."""
    folder = settings.folder
    try:
        stored = None if folder is None or settings.secret is not None else previous_secret(folder)
    except OSError as error:
        raise _unusable(folder or DEFAULT_DATA, error) from None
    configured = tuple(secret.encode() for secret in settings.keys.previous_secrets)
    return configured if stored is None else (stored, *configured)


def _unusable(folder: Path, error: OSError) -> StartFailed:
    fault = describe_os_error(Path(error.filename or folder), error)
    return StartFailed(f"the data folder can't be used: {fault}")

"""Owns who the terminal is to a server: remembered visitors, an operator's own token.

Refuses to know how tokens are made and checked.
"""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import attrs
import click

from actorchat.protocol.entities import Role, User

TOKEN_SECONDS: Final = 7 * 86_400.0
"""How long a token made here is good: longer than anybody leaves a terminal open."""

_NO_TOKEN: Final = "--token holds no token of this kind"  # noqa: S105 - a message


class IdentityError(Exception):
    """No identity can be had; the text says why in one line."""


def default_state_file() -> Path:
    """Where this platform keeps what a program remembers of its user."""
    if os.name == "posix" and sys.platform != "darwin":
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(home) / "actorchat" / "visitors.json"
    return Path(click.get_app_dir("actorchat")) / "visitors.json"


@attrs.frozen
class VisitorMemory:
    """The tokens of the visitors this user was, by server and source, in a file only this user may read."""

    path: Path

    def recall(self, origin: str, source: str) -> str | None:
        """The token there, None for a first visit. Raises IdentityError."""
        token = self._load().get(f"{origin} {source}")
        return token if isinstance(token, str) else None

    def keep(self, origin: str, source: str, token: str) -> None:
        """Remember the token there. Raises IdentityError."""
        tokens = {**self._load(), f"{origin} {source}": token}
        draft = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(tokens, file, indent=1)
            draft.replace(self.path)
        except OSError as error:
            raise IdentityError(f"cannot remember this visitor in {self.path}: {error.strerror}") from error

    def _load(self) -> dict[str, object]:
        try:
            tokens = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise IdentityError(f"cannot read {self.path}: {error.strerror}") from error
        except ValueError:
            raise IdentityError(f"{self.path} is damaged; remove it to start as a new visitor") from None
        if not isinstance(tokens, dict):
            raise IdentityError(f"{self.path} is damaged; remove it to start as a new visitor")
        return tokens


def make_operator_token(data: Path, user_id: int, name: str, source: str) -> str:
    """A token from the files of a local server. Raises IdentityError."""
    # Imported here: only who sits beside the server's files needs the server's code.
    from actorchat.server.auth import local_token
    from actorchat.server.settings import InvalidSettings

    try:
        return local_token(
            data, role=Role.OPERATOR, user_id=user_id, sources=(source,), firstname=name, ttl=TOKEN_SECONDS
        )
    except FileNotFoundError:
        raise IdentityError(f"{data} holds no server's secret; is --data the server's folder?") from None
    except OSError as error:
        raise IdentityError(f"cannot read the secret in {data}: {error.strerror}") from error
    except InvalidSettings as error:
        raise IdentityError(str(error)) from error


def user_of(token: str) -> User:
    """The user that the token names, unchecked: the server checks. Raises IdentityError."""
    claims = _claims_of(token)
    try:
        names = {name: str(claims.get(name, "")) for name in ("firstname", "lastname", "patronymic", "avatar")}
        return User(int(claims["sub"]), Role(claims["role"]), **names)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise IdentityError(_NO_TOKEN) from None


def names_sources(token: str) -> bool:
    """Whether the token names any widget source; an operator sees no chat without one. Raises IdentityError."""
    claims = _claims_of(token)
    return isinstance(claims, dict) and bool(claims.get("src"))


# Any: JSON that somebody else wrote; callers check what they take from it.
def _claims_of(token: str) -> Any:
    try:
        payload = token.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, LookupError):
        raise IdentityError(_NO_TOKEN) from None

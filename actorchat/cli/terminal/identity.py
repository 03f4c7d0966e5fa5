"""Keeps visitors' tokens in a file, makes operators' tokens, and reads the user from a token."""

import base64
import json
import os
from pathlib import Path
from typing import Any, Final

import attrs
from platformdirs import user_state_path

from actorchat.protocol.entities import Role, User

TOKEN_SECONDS: Final = 7 * 86_400.0
"""How long a token made here is valid; longer than a terminal usually stays open."""

_NO_TOKEN: Final = "--token is no token of this server's kind"  # noqa: S105 - a message


class IdentityError(Exception):
    """There is no usable token; the text says why on one line."""


def default_state_file() -> Path:
    """The file for visitors' tokens, in this platform's folder for the state of programs."""
    return user_state_path("actorchat", appauthor=False, roaming=True) / "visitors.json"


@attrs.frozen
class VisitorTokens:
    """The visitors' tokens of this system user, by server and source, in a file that only this user can read."""

    path: Path

    def load(self, origin: str, source: str) -> str | None:
        """Return the token for that server and source, or None. Raises IdentityError."""
        token = self._load().get(f"{origin} {source}")
        return token if isinstance(token, str) else None

    def save(self, origin: str, source: str, token: str) -> None:
        """Keep the token for that server and source. Raises IdentityError."""
        tokens = {**self._load(), f"{origin} {source}": token}
        draft = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(tokens, file, indent=1)
            draft.replace(self.path)
        except OSError as error:
            raise IdentityError(f"cannot write the visitor's token to {self.path}: {error.strerror}") from error

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


def make_operator_token(data: Path, secret: str | None, user_id: int, name: str, source: str) -> str:
    """Sign a token with `secret`, or with the one in a local server's data folder. Raises IdentityError."""
    # Imported here, because a client of a remote server does not need the server's code.
    from actorchat.server.auth import local_token
    from actorchat.server.settings import InvalidSettings

    try:
        return local_token(
            data,
            role=Role.OPERATOR,
            user_id=user_id,
            sources=(source,),
            firstname=name,
            ttl=TOKEN_SECONDS,
            secret=secret,
        )
    except FileNotFoundError:
        raise IdentityError(f"{data} has no secret of a server; is --data the server's data folder?") from None
    except OSError as error:
        raise IdentityError(f"cannot read the secret in {data}: {error.strerror}") from error
    except InvalidSettings as error:
        raise IdentityError(str(error)) from error


def user_in_token(token: str) -> User:
    """Read the user from the token without verifying it, which the server does. Raises IdentityError."""
    claims = _claims_of(token)
    try:
        names = {name: str(claims.get(name, "")) for name in ("firstname", "lastname", "patronymic", "avatar")}
        return User(int(claims["sub"]), Role(claims["role"]), **names)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise IdentityError(_NO_TOKEN) from None


def names_sources(token: str) -> bool:
    """Whether the token names a widget source; without one an operator sees no chats. Raises IdentityError."""
    claims = _claims_of(token)
    return isinstance(claims, dict) and bool(claims.get("src"))


# Any: JSON from outside; the callers check what they use of it.
def _claims_of(token: str) -> Any:
    try:
        payload = token.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, LookupError):
        raise IdentityError(_NO_TOKEN) from None

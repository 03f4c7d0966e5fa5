"""Exports and erases people for the command line: requests and answers that pass through the local socket."""

from __future__ import annotations

from pathlib import Path

import attrs

from actorchat.chat.model import Identity
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.privacy import AuditAction
from actorchat.chat.submitter import ChatRefused
from actorchat.protocol import Role
from actorchat.server.privacy import Privacy, UnknownPerson
from actorchat.storage.error_messages import describe_os_error

__all__ = ["PrivacyAnswer", "PrivacyRequest", "carry_out"]


@attrs.frozen(kw_only=True)
class PrivacyRequest:
    """A request about one person. `target` is the absolute path of the file that an export writes."""

    action: AuditAction
    role: Role
    user_id: int
    by: str
    target: str = ""


@attrs.frozen(kw_only=True)
class PrivacyAnswer:
    """How much was exported or erased, or why the request was refused."""

    counts: dict[str, int] = attrs.Factory(dict)
    refusal: str | None = None


async def carry_out(privacy: Privacy, request: PrivacyRequest) -> PrivacyAnswer:
    """Carry out `request`. A refusal is part of the answer."""
    person = Identity(request.role, request.user_id)
    try:
        if request.action is AuditAction.ERASE:
            return PrivacyAnswer(counts=await privacy.erase(person, request.by))
        return PrivacyAnswer(counts=await privacy.export(person, request.by, Path(request.target)))
    except UnknownPerson as error:
        return PrivacyAnswer(refusal=str(error))
    except ChatRefused as refused:
        return PrivacyAnswer(refusal=f"{refused.detail}; repeat the command to complete it")
    except StorageUnavailable:
        return PrivacyAnswer(refusal="storage is unavailable; repeat the command later")
    except FileExistsError:
        return PrivacyAnswer(refusal=f"{request.target} exists already")
    except OSError as error:
        return PrivacyAnswer(refusal=str(describe_os_error(Path(request.target), error)))

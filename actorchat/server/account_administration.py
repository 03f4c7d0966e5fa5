"""Administers operators' accounts for the command line: requests and answers that pass through the local socket."""

from __future__ import annotations

from enum import StrEnum

import attrs

from actorchat.chat.accounts import Account, InvalidLogin, Rights
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.submitter import ChatRefused
from actorchat.http.source_names import is_source_name
from actorchat.server.accounts import Accounts, UnknownAccount
from actorchat.server.auth import FIRST_ANONYMOUS_ID, is_storable

__all__ = ["AccountAction", "AccountAnswer", "AccountRequest", "AccountRow", "administer"]

_MAX_NAME = 200
_MAX_SOURCES = 1000


class AccountAction(StrEnum):
    """The action that a request asks for."""

    ADD = "add"
    LIST = "list"
    CHANGE = "change"
    LINK = "link"


@attrs.frozen(kw_only=True)
class AccountRequest:
    """A request about accounts. `password` is a hash. In a change, None leaves a value as it is.

    A link without a login is for an administrator's account, which is created if there is none.
    """

    action: AccountAction
    login: str = ""
    password: str | None = attrs.field(default=None, repr=False)
    rights: Rights | None = None
    sources: tuple[str, ...] | None = None
    disabled: bool | None = None
    operator_id: int | None = None
    firstname: str | None = None
    lastname: str | None = None


@attrs.frozen(kw_only=True)
class AccountRow:
    """An account as the command line shows it. `created` is in epoch seconds."""

    id: int
    login: str
    rights: str
    sources: tuple[str, ...]
    disabled: bool
    has_password: bool
    created: int
    one_time: bool = False


@attrs.frozen(kw_only=True)
class AccountAnswer:
    """The accounts that a request is about, or all of them; a one-time code; or why the request was refused."""

    accounts: tuple[AccountRow, ...] = ()
    code: str | None = attrs.field(default=None, repr=False)
    refusal: str | None = None


async def administer(accounts: Accounts, request: AccountRequest) -> AccountAnswer:
    """Carry out `request`. A refusal is part of the answer."""
    try:
        fault = _fault(request)
        if fault is not None:
            return AccountAnswer(refusal=fault)
        return await _administer(accounts, request)
    except (InvalidLogin, UnknownAccount) as error:
        return AccountAnswer(refusal=str(error))
    except ChatRefused as refused:
        return AccountAnswer(refusal=refused.detail)
    except StorageUnavailable:
        return AccountAnswer(refusal="storage is unavailable; try again later")


async def _administer(accounts: Accounts, request: AccountRequest) -> AccountAnswer:
    match request.action:
        case AccountAction.LIST:
            return AccountAnswer(accounts=tuple(map(_row, accounts.all())))
        case AccountAction.LINK:
            account = accounts.find(request.login) if request.login else None
            if account is not None and account.disabled:
                return AccountAnswer(refusal=f"the account {account.login} is disabled")
            return AccountAnswer(code=accounts.one_time_code(account))
        case AccountAction.ADD:
            added = await accounts.add(
                request.login,
                password=request.password or "",
                rights=request.rights or Rights.OPERATOR,
                sources=request.sources or (),
                operator_id=request.operator_id,
                firstname=request.firstname or "",
                lastname=request.lastname or "",
            )
            return AccountAnswer(accounts=(_row(added),))
        case AccountAction.CHANGE:
            changed = await accounts.change(
                accounts.find(request.login),
                password=request.password,
                disabled=request.disabled,
                rights=request.rights,
                sources=request.sources,
                firstname=request.firstname,
                lastname=request.lastname,
            )
            return AccountAnswer(accounts=(_row(changed),))


def _fault(request: AccountRequest) -> str | None:
    for name, value in (("first name", request.firstname), ("last name", request.lastname)):
        if value is not None and (len(value) > _MAX_NAME or not is_storable(value)):
            return f"the {name} must have at most {_MAX_NAME} characters, and no NUL"
    for source in request.sources or ():
        if not is_source_name(source):
            return f"{source!r}: a source name has 1 to 64 characters out of a-z, 0-9, _ and -"
    if len(request.sources or ()) > _MAX_SOURCES:
        return f"an account has at most {_MAX_SOURCES} sources"
    if request.operator_id is not None and not 0 <= request.operator_id < FIRST_ANONYMOUS_ID:
        return "an operator's id is from 0 to 2^52-1"
    return None


def _row(account: Account) -> AccountRow:
    return AccountRow(
        id=account.id,
        login=account.login,
        rights=account.rights.value,
        sources=account.sources,
        disabled=account.disabled,
        has_password=bool(account.password),
        created=account.created,
        one_time=account.one_time,
    )

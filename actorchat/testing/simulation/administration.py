"""Simulates what operators do besides chatting: sign in with an account, go away, block visitors, and erase people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

import trio

from actorchat.chat.accounts import Rights
from actorchat.client import ApiError, ApiUnreachable
from actorchat.server.account_administration import AccountAction, AccountRequest
from actorchat.server.passwords import hash_password
from actorchat.server.serving import administer_accounts
from actorchat.testing.simulation.tokens import claims_of

if TYPE_CHECKING:
    from actorchat.testing.simulation.chat_world import ChatWorld
    from actorchat.testing.simulation.people import Operator

__all__ = ["Administration", "lift_restrictions"]

PASSWORD: Final = "a password of simulated operators"  # noqa: S105 - of servers that only exist in simulations

_PATIENCE: Final = 20.0
"""Seconds for a command: a server that is killed meanwhile never answers."""

_TRIES: Final = 200


class Administration:
    """The steps of one operator, some of which only administrators may take."""

    def __init__(self, person: Operator) -> None:
        self._person = person
        self._world = person.world

    @property
    def handlers(self) -> Mapping[str, Callable[[int, int, int], Awaitable[None]]]:
        return {
            "account": self._take_account,
            "disable": self._disable,
            "login": self._login,
            "away": self._set_away,
            "block": self._block,
            "erase": self._erase,
        }

    async def _take_account(self, a: int, b: int, c: int) -> None:
        """Get an account from the command line, or a new password for it, which signs out."""
        person, password = self._person, hash_password(PASSWORD)
        if person.id in self._world.truth.accounts:
            request = AccountRequest(action=AccountAction.CHANGE, login=person.name, password=password)
        else:
            request = AccountRequest(
                action=AccountAction.ADD,
                login=person.name,
                password=password,
                sources=tuple(sorted(person.sources)),
                operator_id=person.id,
            )
        await _command(self._world, request)

    async def _disable(self, a: int, b: int, c: int) -> None:
        """Disable an account, or enable it again."""
        accounts = [account for _, account in sorted(self._world.truth.accounts.items())]
        if accounts:
            account = accounts[a % len(accounts)]
            request = AccountRequest(action=AccountAction.CHANGE, login=account.login, disabled=not account.disabled)
            await _command(self._world, request)

    async def _login(self, a: int, b: int, c: int) -> None:
        """Sign in with the account, and use the token that the server issues."""
        person, accounts = self._person, self._world.truth.accounts
        before, password = accounts.get(person.id), PASSWORD if b % 4 else "a wrong password"
        try:
            answer = await person.request("POST", "/api/login", {"login": person.name, "password": password})
        except ApiError as error:
            if error.status in (401, 429):
                return
            raise
        account = accounts.get(person.id)
        usable = account is not None and password == PASSWORD and not (account is before and account.disabled)
        self._world.check(usable, "sign-in", f"{person.name} is signed in with {password!r} to {account}")
        token = str(answer.json()["token"])
        claims = claims_of(token)
        person.use(token, issued=claims["iat"], expires=claims["exp"], rights=Rights(claims["rights"]))

    async def _set_away(self, a: int, b: int, c: int) -> None:
        await self._person.request("POST", "/api/operators/me/away", {"away": bool(b % 2)})

    async def _block(self, a: int, b: int, c: int) -> None:
        """Block a visitor, for ever or for a time, or end a block."""
        blocks = sorted(self._world.truth.blocks)
        if blocks and c % 2:
            await self._administer("DELETE", f"/api/blocks/{blocks[a % len(blocks)]}")
        else:
            user = 1 + a % self._world.plan.setup.visitors
            await self._administer("POST", "/api/blocks", {"user": user, "seconds": None if b % 2 else 1 + b / 50})

    async def _erase(self, a: int, b: int, c: int) -> None:
        """Erase a visitor, or another operator."""
        setup = self._world.plan.setup
        role, number = "user", 1 + b % setup.visitors
        others = [number for number in range(1, setup.operators + 1) if number != self._person.id]
        if others and a % 4 == 0:
            role, number = "operator", others[b % len(others)]
        began = trio.current_time()
        await self._administer("POST", f"/api/people/{role}/{number}/erase")
        self._world.truth.judge_erased((role, number), began)

    async def _administer(self, method: str, path: str, body: Mapping[str, object] | None = None) -> None:
        """Send a request that only an administrator may send."""
        person = self._person
        await person.request(method, path, body)
        self._world.check(person.rights is Rights.ADMIN, "rights", f"{person.name}: {method} {path} is allowed")


async def lift_restrictions(world: ChatWorld, administrator: Operator) -> None:
    """Enable all accounts and end all blocks, so that everybody can read at the end."""
    for _ in range(_TRIES):
        disabled = [account for account in world.truth.accounts.values() if account.disabled]
        if not disabled and not world.truth.blocks:
            return
        for account in disabled:
            await _command(world, AccountRequest(action=AccountAction.CHANGE, login=account.login, disabled=False))
        administrator.renew()
        for block in list(world.truth.blocks):
            try:
                await administrator.request("DELETE", f"/api/blocks/{block}")
            except (ApiError, ApiUnreachable) as error:
                world.log("block", block, "stays", str(error))
        await trio.sleep(1)
    world.fail("no-end", "blocks and disabled accounts can't be lifted")


async def _command(world: ChatWorld, request: AccountRequest) -> None:
    server = world.process.server
    if server is not None:
        with trio.move_on_after(_PATIENCE):
            answer = await administer_accounts(server, request)
            world.log("accounts", request.action, request.login, request.disabled, answer.refusal)

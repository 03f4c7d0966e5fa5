"""Closes the sockets of people who may not use the chat any more, and all sockets of a server that is cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actorchat.chat.blocks import Block
from actorchat.chat.model import Identity
from actorchat.chat.ports import Session
from actorchat.protocol import CloseCode, Role, User
from actorchat.server.accounts import Accounts
from actorchat.server.blocks import Blocks
from actorchat.transports.session import Sessions

__all__ = ["SocketEndings"]


class SocketEndings:
    """Closes sockets among `all_sessions`, the sessions of each transport."""

    def __init__(self, all_sessions: Sequence[Sessions], accounts: Accounts, blocks: Blocks) -> None:
        self._all_sessions = all_sessions
        self._accounts = accounts
        self._blocks = blocks

    def end_signed_out(self, user: User, issued: float) -> None:
        """Close the sockets of a user whose tokens were issued up to then, in epoch seconds."""
        for sessions in self._all_sessions:
            sessions.sign_out(user, issued, CloseCode.SIGNED_OUT, "signed out")

    def end_disabled(self) -> None:
        """Close the sockets of all operators whose accounts are disabled."""
        self._close(
            lambda session: self._accounts.is_disabled(session.user), CloseCode.SIGNED_OUT, "the account is disabled"
        )

    def end_blocked(self, block: Block) -> None:
        """Close the sockets of the visitors that the block names."""
        if block.user is not None:
            for sessions in self._all_sessions:
                sessions.close_user(Identity(Role.USER, block.user), CloseCode.NOT_ALLOWED, "blocked")
        else:
            self._close(
                lambda session: session.user.role is Role.USER and self._blocks.blocks_address(session.peer),
                CloseCode.NOT_ALLOWED,
                "blocked",
            )

    def end_all(self) -> None:
        """Close all sockets, so that their clients connect to a server that can reach the database."""
        self._close(lambda session: True, CloseCode.DRAINING, "this server can't reach the database")

    def _close(self, belongs: Callable[[Session], bool], code: CloseCode, reason: str) -> None:
        for sessions in self._all_sessions:
            sessions.close_where(belongs, code, reason)

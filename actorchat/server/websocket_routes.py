"""Authorizes websocket upgrades, and connects admitted sockets to their room or feed."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final
from urllib.parse import parse_qs
from uuid import UUID

import trio

from actorchat.chat.model import Identity, identity_of
from actorchat.chat.ports import Session, StorageUnavailable
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.http.base_path import without_base_path
from actorchat.http.cors import foreign_origin
from actorchat.http.origins import AllowedOrigins
from actorchat.http.ports import Caller, Sender
from actorchat.http.problems import Problem, problem_of_refusal
from actorchat.http.proxies import Proxies
from actorchat.http.request_target import split_target
from actorchat.http.requests import check_parameters
from actorchat.protocol import CloseCode, Command, Malformed, Profile, Role, UnknownType, select_subprotocol
from actorchat.server.access_control import AccessControl
from actorchat.transports.listener import Rejection
from actorchat.transports.ports import Admission, FeedTarget, Receiver, RoomTarget
from actorchat.transports.request_head import RequestHead

__all__ = ["WebsocketAccess", "WebsocketRoutes"]

_ROOM: Final = re.compile(r"/ws/chats/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})")
_FEED: Final = "/ws/operators"
_INDEX: Final = re.compile(r"-1|[0-9]{1,15}")

_MAX_QUERY_FIELDS: Final = 1000

_AUTHORIZE_SECONDS: Final = 15.0
"""An upgrade is refused if its authorization takes longer, as it may while storage is unavailable."""

_CLOSE_CODES: Final = {
    401: CloseCode.NOT_AUTHENTICATED,
    403: CloseCode.NOT_ALLOWED,
    404: CloseCode.NO_SUCH_CHAT,
    429: CloseCode.OVERLOADED,
}
"""Close codes that replace these statuses for browsers: a page can't read the status of a refused upgrade."""

_JOIN_CLOSE_CODES: Final = {
    "not_found": CloseCode.NO_SUCH_CHAT,
    "draining": CloseCode.DRAINING,
}
"""Close codes for a socket whose join the chat refuses; `OVERLOADED` for all other refusals."""


class WebsocketAccess:
    """Decides whether to accept a websocket upgrade (`actorchat.transports.listener.AuthorizeUpgrade`)."""

    def __init__(
        self,
        access_control: AccessControl,
        origins: AllowedOrigins,
        proxies: Proxies | None = None,
        *,
        max_sockets: Mapping[Role, int] | None = None,
        count: Callable[[Identity], int] = lambda identity: 0,
        base_path: str = "",
    ) -> None:
        """`max_sockets` limits the open sockets of one user by role, 0 or absent = unlimited; `count` counts them.

        `base_path` is the path below which a proxy serves the sockets.
        """
        self._access_control = access_control
        self._origins = origins
        self._proxies = proxies or Proxies()
        self._max_sockets = max_sockets or {}
        self._count = count
        self._base_path = base_path

    def __call__(
        self, head: RequestHead, peer: str
    ) -> Admission | Rejection | Coroutine[Any, Any, Admission | Rejection]:  # Any: as in `AuthorizeUpgrade`
        peer = self._proxies.client(peer, head.headers).address
        origin = _text(head.header(b"origin"))
        host = split_target(head.path)[0] or _text(head.header(b"host"))
        if origin is not None and not self._origins.allow(origin, host):
            self._origins.log_refusal(origin, host)
            return _rejection(foreign_origin())
        sender = Sender(peer, origin, host)
        _, profile, bearer = select_subprotocol(head.subprotocols)
        # The subprotocol wins: the page chose it, while the browser may add a header for a site's basic authentication.
        authorization = _text(head.header(b"authorization")) if bearer is None else f"Bearer {bearer}"
        # A token in a subprotocol means a browser, whose pages can't read the HTTP answer to a refused upgrade.
        readable = bearer is None
        access_control = self._access_control
        try:
            caller = access_control.caller_nowait(authorization, sender)
            requested = _parse_target(head, self._base_path)
            if isinstance(requested, RoomTarget):
                access_control.chat_nowait(caller, requested.chat)
            return self._admit(caller, requested, profile, peer)
        except trio.WouldBlock:
            return self._authorize_slowly(head, sender, profile, authorization, readable=readable)
        except Problem as problem:
            return _rejection(problem, readable=readable)

    async def _authorize_slowly(
        self, head: RequestHead, sender: Sender, profile: Profile, authorization: str | None, *, readable: bool
    ) -> Admission | Rejection:
        """Authorize an upgrade for which storage has to be read or written."""
        access_control = self._access_control
        try:
            with trio.fail_after(_AUTHORIZE_SECONDS):
                caller = await access_control.caller(authorization, sender)
                requested = _parse_target(head, self._base_path)
                if isinstance(requested, RoomTarget):
                    await access_control.chat(caller, requested.chat)
                return self._admit(caller, requested, profile, sender.address)
        except trio.TooSlowError:
            return _rejection(Problem("overloaded", "authorization took too long; try again later"))
        except Problem as problem:
            return _rejection(problem, readable=readable)
        except ChatRefused as refused:
            return _rejection(problem_of_refusal(refused))
        except StorageUnavailable:
            return _rejection(Problem("storage_unavailable", "storage is unavailable; try again later"))

    def _admit(self, caller: Caller, requested: RoomTarget | list[str], profile: Profile, peer: str) -> Admission:
        target = (
            requested
            if isinstance(requested, RoomTarget)
            else FeedTarget(self._access_control.sources(caller, requested))
        )
        if isinstance(target, RoomTarget) and target.quiet:
            _check_quiet(caller, profile)
        limit = self._max_sockets.get(caller.user.role, 0)
        if limit and self._count(identity_of(caller.user)) >= limit:
            detail = f"you have {limit} sockets open, which is the limit: close one, or wait until a lost one times out"
            raise Problem("rate_limited", detail)
        # From here until the transport counts the socket, no other task runs.
        self._access_control.check_current(caller)
        return Admission(
            user=caller.user,
            profile=profile,
            target=target,
            expires_at=caller.expires,
            issued=caller.issued,
            peer=peer,
        )


def _check_quiet(caller: Caller, profile: Profile) -> None:
    if not caller.is_operator:
        raise Problem("not_allowed", "only operators can read quietly", path="quiet")
    if profile is not Profile.EXTENDED:
        detail = f"quiet: offer the subprotocol {Profile.EXTENDED.value}"
        raise Problem("malformed", detail, path="quiet", status=400)


def _parse_target(head: RequestHead, base_path: str) -> RoomTarget | list[str]:
    """Return the room, or the sources of the feed, that the request names. Does not check access."""
    try:
        query = parse_qs(head.query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        raise Problem("malformed", f"a query may have at most {_MAX_QUERY_FIELDS} fields", status=400) from None
    path = without_base_path(split_target(head.path)[1], base_path)
    room = _ROOM.fullmatch(path)
    if room is not None:
        check_parameters(query, ("after", "quiet"))
        return RoomTarget(UUID(room[1]), _after(query.get("after", [])), _quiet(query.get("quiet", [])))
    if path == _FEED:
        check_parameters(query, ("source",))
        return query.get("source", [])
    raise Problem("not_found", "there is no websocket at this path")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _after(texts: list[str]) -> int | None:
    if not texts:
        return None
    if len(texts) > 1 or not _INDEX.fullmatch(texts[0]):
        detail = "after: expected one message index, or -1 for everything"
        raise Problem("malformed", detail, path="after", status=400)
    return int(texts[0])


def _quiet(texts: list[str]) -> bool:
    if texts not in ([], ["1"]):
        raise Problem("malformed", "quiet: expected 1", path="quiet", status=400)
    return bool(texts)


def _rejection(problem: Problem, *, readable: bool = True) -> Rejection:
    """Return the refusal as an HTTP response. For clients that can't read one, add a close code if there is one."""
    close_code = None if readable else _CLOSE_CODES.get(problem.status)
    return Rejection(status=problem.status, body=problem.body(), close_code=close_code, reason=problem.code)


class WebsocketRoutes:
    """Joins admitted sockets to their room or feed (`actorchat.transports.ports.Application`)."""

    def __init__(self, chats: ChatService) -> None:
        self._chats = chats

    def join(self, session: Session, admission: Admission) -> Receiver | Awaitable[Receiver]:
        target = admission.target
        if isinstance(target, RoomTarget):
            try:
                return self._chats.joining.room_nowait(session, target.chat, target.after, quiet=target.quiet)
            except trio.WouldBlock:
                pass
        return self._join(session, target)

    async def _join(self, session: Session, target: RoomTarget | FeedTarget) -> Receiver:
        try:
            if isinstance(target, RoomTarget):
                return await self._chats.joining.room(session, target.chat, target.after, quiet=target.quiet)
            return await self._chats.joining.feed(session, target.sources)
        except ChatRefused as refused:
            session.close(_JOIN_CLOSE_CODES.get(refused.code, CloseCode.OVERLOADED), refused.code)
        except StorageUnavailable:
            session.close(CloseCode.OVERLOADED, "storage is unavailable")
        return _ClosedReceiver()


class _ClosedReceiver:
    """Ignores the remaining input of a socket that is being closed."""

    def receive(self, command: Command | UnknownType) -> bool | None:
        return None

    def malformed(self, fault: Malformed) -> None:
        return None

    def leave(self) -> None:
        return None

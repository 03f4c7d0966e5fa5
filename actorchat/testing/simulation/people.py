"""The visitors and operators of a run, who follow the steps of a plan over websockets and HTTP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Final
from uuid import UUID

import attrs
import httpx
import trio

from actorchat.chat.accounts import Rights
from actorchat.chat.model import StoredMessage
from actorchat.client import (
    Api,
    ApiError,
    ApiUnreachable,
    ConnectionEnded,
    NotAdded,
    NotAllowed,
    NotAuthenticated,
    SignedOut,
    Undelivered,
)
from actorchat.protocol import ChatStatus, Message, MessageType, Role, User
from actorchat.testing.simulation.administration import Administration
from actorchat.testing.simulation.chat_truth import ChatTruth, person_of
from actorchat.testing.simulation.consoles import Consoles
from actorchat.testing.simulation.files import Files
from actorchat.testing.simulation.http import SimulatedTransport
from actorchat.testing.simulation.model import Person as Who
from actorchat.testing.simulation.plan import Step
from actorchat.testing.simulation.raw_sockets import RawSockets
from actorchat.testing.simulation.socket_watch import stored_content
from actorchat.testing.simulation.tabs import Tabs

if TYPE_CHECKING:
    from actorchat.testing.simulation.chat_world import ChatWorld

__all__ = ["SOURCES", "URL", "Operator", "Person", "Visitor", "make_people"]

URL: Final = "http://chat.test:8000"
SOURCES: Final = ("lk", "shop")

Handler = Callable[[int, int, int], Awaitable[None]]

_WRONG_REQUESTS: Final = (
    ("POST", "/api/visitors", b"{", {400}),
    ("POST", "/api/visitors", b'{"source":7}', {422}),
    ("GET", "/api/chats?limit=many", b"", {400}),
    ("GET", "/api/chats?status=happy", b"", {400}),
    ("GET", "/api/nothing", b"", {404}),
    ("DELETE", "/api/chats", b"", {405}),
    ("GET", "/api/chats/00000000-0000-0000-0000-000000000007", b"", {404}),
    ("POST", "/api/chats/00000000-0000-0000-0000-000000000007/messages", b'{"text":"x"}', {404}),
)
"""Requests that must be refused, with the statuses that are allowed."""

_UNJUDGED: Final = frozenset({"conflict", "not_authenticated", "blocked"})
"""Refusals of a message after which it may still be stored."""

_ALWAYS_POSSIBLE: Final = frozenset({401, 403, 408, 429, 503})
"""Statuses that any request may get: its token or its user's rights have ended, or the network or storage is slow."""


def make_people(world: ChatWorld) -> dict[str, Person]:
    people: dict[str, Person] = {}
    for name in world.plan.setup.people:
        number = 1 + int(name[1:])
        people[name] = Visitor(world, name, number) if name[0] == "v" else Operator(world, name, number)
    return people


@attrs.frozen
class TokenUse:
    """The use of a token that was `issued` and `expires` at these epoch seconds, from the time `since` on."""

    issued: float
    expires: float
    since: float


class Person(ABC):
    """One user. `current` is the user's token, which was `issued` and `expires` at these epoch seconds."""

    role: Role
    sources: frozenset[str]
    site_rights: Rights | None = None
    """The rights in the tokens that the site issues. `rights` are those of `current`."""

    def __init__(self, world: ChatWorld, name: str, id_: int) -> None:
        self.world = world
        self.name = name
        self.id = id_
        self.who: Who = (self.role.value, id_)
        self.firstname: str = name
        self.known: dict[str, int] = defaultdict(lambda: -1)
        """The newest message that any socket of the person received, by chat."""
        self.keys: list[tuple[str, str, str]] = []
        """The messages sent, as (chat, client_id, text)."""
        self.again: set[str] = set()
        """The client_ids used more than once."""
        self.current: str = ""
        self.expires: float = 0.0
        self.issued: float = 0.0
        self.rights: Rights | None = None
        self.http: httpx.AsyncClient = httpx.AsyncClient(
            base_url=URL, transport=SimulatedTransport(world.network), timeout=15.0, trust_env=False
        )
        self.api: Api = Api(self.http)
        self.scope: trio.CancelScope = trio.CancelScope()
        self.nursery: trio.Nursery
        self._counter = 0
        self.tabs: Tabs = Tabs(self)
        self.raws: RawSockets = RawSockets(self)
        self.files: Files = Files(self)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The method for each verb of a plan."""
        return {
            **self.tabs.handlers,
            **self.raws.handlers,
            **self.files.handlers,
            "rename": self._rename,
            "post": self._post_message,
            "history": self._read_history,
            "look": self._look,
            "close": self._close,
            "reopen": self._reopen,
            "wrong_request": self._wrong_request,
            "edit": self._edit,
            "redact": self._redact,
            "sign_out": self._sign_out,
        }

    @abstractmethod
    def may_see(self, chat: ChatTruth) -> bool:
        """Whether the rules let the person see the chat."""

    @abstractmethod
    async def begin(self) -> None:
        """Make the person known to the server."""

    async def run(self) -> None:
        """Follow the plan, and stay until `leave`."""
        world, handlers = self.world, self.handlers
        self.renew()
        with self.scope:
            async with trio.open_nursery() as self.nursery:
                await self.begin()
                for step in world.plan.steps:
                    if step.who != self.name:
                        continue
                    await trio.sleep_until(step.at)
                    if world.calm:
                        break
                    await self._take(step, handlers[step.verb])
                await trio.sleep_forever()
        with trio.move_on_after(5, shield=True):
            await self.http.aclose()

    def leave(self) -> None:
        self.scope.cancel()

    async def _take(self, step: Step, handler: Handler) -> None:
        world, used = self.world, self.token_use()
        world.log(self.name, step.verb, step.a, step.b, step.c)
        world.coverage.operation(step.verb, trio.current_time())
        try:
            await handler(step.a, step.b, step.c)
        except ApiError as error:
            world.log(self.name, "api error", error.code)
            self._judge_error(error, used)
        except ApiUnreachable as error:
            world.log(self.name, "unreachable", error.asked)

    def _judge_error(self, error: ApiError, used: TokenUse) -> None:
        world = self.world
        if error.code == "not_authenticated" and self.may_be_worthless(used):
            self.renew_if_worthless()
        elif error.status == 500 or error.code in ("not_authenticated", "not_participant"):
            world.fail("api", f"{self.name}: {error.status} {error}")

    # Identity

    def renew(self, ttl: float = 10_000.0) -> None:
        """Get a new token, as the site's backend would issue it."""
        user = User(self.id, self.role, firstname=self.firstname)
        now, rights = self.world.wall(), self.site_rights
        token = self.world.tokens.issue(user, self.sources, ttl, rights)
        self.use(token, issued=round(now, 3), expires=now + ttl, rights=rights)

    def use(self, token: str, *, issued: float, expires: float, rights: Rights | None) -> None:
        """Use this token from now on."""
        self.current, self.issued, self.expires, self.rights = token, issued, expires, rights
        self.http.headers["Authorization"] = f"Bearer {token}"

    def token_use(self) -> TokenUse:
        """Describe a use of the current token that begins now."""
        return TokenUse(self.issued, self.expires, trio.current_time())

    def may_be_worthless(self, used: TokenUse) -> bool:
        """Whether the server may have refused the token: it has expired, or its user has signed out or was disabled."""
        world = self.world
        expired = world.may_have_expired(min(used.expires, self.expires))
        return expired or self.is_signed_out(used.issued) or world.may_seem_disabled(self.who, used.since)

    def is_signed_out(self, issued: float) -> bool:
        record = self.world.truth.people.get(self.who)
        return record is not None and issued <= record.signed_out_at

    def renew_if_worthless(self) -> None:
        if self.may_be_worthless(self.token_use()):
            self.renew()

    def judge_end(self, error: ConnectionEnded, used: TokenUse) -> bool:
        """Whether a socket that was opened with that token may have ended like this. Renews a worthless token."""
        self.renew_if_worthless()
        if isinstance(error, SignedOut):
            # A sign-out also ends sockets with newer tokens.
            return self.world.truth.signed_out.get(self.who, -inf) >= used.since or self.is_signed_out(used.issued)
        if isinstance(error, NotAllowed):
            return self.role is Role.USER and self.id in self.world.truth.blocked
        return isinstance(error, NotAuthenticated) and self.may_be_worthless(used)

    async def _rename(self, a: int, b: int, c: int) -> None:
        self.firstname = f"{self.name} {b % 5}"
        self.renew()

    def next_text(self) -> str:
        self._counter += 1
        return f"{self.name}-{self._counter}"

    # Chats

    def chats(self) -> list[str]:
        return [uuid for uuid, chat in self.world.truth.chats.items() if self.may_see(chat)]

    def chat(self, pick: int) -> str | None:
        chats = self.chats()
        return chats[pick % len(chats)] if chats else None

    # HTTP

    async def _post_message(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        if chat is None:
            return
        theirs = [each for each in self.keys if each[0] == chat and not self.tabs.is_on_its_way(each[1])]
        if theirs and b % 3 == 0:
            _, key, text = theirs[-1 - c % min(4, len(theirs))]
            self.again.add(key)
        else:
            text = self.next_text()
            key = f"{text}-http"
            self.keys.append((chat, key, text))
        await self.post(chat, text, key)

    async def post(
        self,
        chat: str,
        text: str,
        key: str,
        *,
        type: MessageType = MessageType.STANDARD,
        type_role: Role | None = None,
        files: Sequence[UUID] = (),
    ) -> None:
        """Send a message over HTTP, and check the answer."""
        world, truth = self.world, self.world.truth
        truth.attempts[chat, self.who, key] += 1
        refused_before = truth.refusals[chat, self.who, key]
        try:
            message = await self.api.add_message(UUID(chat), text, files, client_id=key, type=type, type_role=type_role)
        except ApiError as error:
            # After a 503 earlier requests, and even this one, may or may not have been carried out.
            if error.status != 503:
                truth.settle_attempt(chat, self.who, key)
                in_time = truth.refusals[chat, self.who, key] > refused_before
                stored = truth.stored(chat, self.who, key)
                if error.code not in _UNJUDGED and stored is not None and not in_time:
                    world.fail("refused-though-stored", f"HTTP {key} {text!r}: {error.code}")
            raise
        truth.settle_attempt(chat, self.who, key)
        stored = truth.message(chat, message.message_index)
        world.check(
            self._answers(chat, key, text, message),
            "durable-before-visible",
            f"HTTP answered {message}, stored is {stored}",
        )

    def _answers(self, chat: str, key: str, text: str, answer: Message) -> bool:
        """Whether `answer` is the stored message of this key and text."""
        whole = self.world.truth.chat(chat)
        stored = self.world.truth.message(chat, answer.message_index)
        if whole is None or stored is None or (stored.id, stored.client_id) != (answer.id, key):
            return False
        # An edited message answers every text under its client_id, because its first text is gone.
        edited = key in self.again and len(whole.versions(stored.index)) > 1
        return edited or whole.original(stored.index).text == text

    def _was(self, chat: str, index: int, text: str) -> bool:
        """Whether the message was stored with this text. It may have been edited since."""
        whole = self.world.truth.chat(chat)
        return whole is not None and whole.original(index).text == text

    async def _read_history(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        if chat is None:
            return
        truth, role = self.world.truth.chats[chat], self.who[0]
        announced, edits = truth.announced, self.world.truth.edits
        page = await self.api.history(UUID(chat), limit=1 + b % 60)
        self.files.saw(page.messages)
        for message in page.messages:
            self._judge_content(truth, message, edits)
        indexes = [message.message_index for message in page.messages]
        visible = truth.visible[role]
        if indexes:
            expected = [index for index in visible if index <= indexes[-1]][-len(indexes) :]
            self.world.check(indexes == expected, "history", f"{indexes} of {visible}")
        reach = [index for index in visible if index <= announced]
        if reach and (not indexes or indexes[-1] < reach[-1]):
            self.world.fail("history", f"{reach[-1]} was broadcast before {indexes[-3:]} was read")

    def _judge_content(self, chat: ChatTruth, message: Message, edits: int) -> None:
        """Check that a message is shown as it was after the first `edits` edits, or later."""
        told = (message.text, [str(file.uuid) for file in message.attachments])
        versions = chat.versions(message.message_index)
        oldest = max(version.number for version in versions if version.number <= edits)
        fitting = [version for version in versions if version.number >= oldest and stored_content(version) == told]
        what = f"{self.name}: message {message.message_index} is shown as {told} after edit {oldest}"
        self.world.check(fitting, "edits", what)

    # Edits

    def _message(self, pick: int, *, own: bool) -> tuple[str, StoredMessage] | None:
        """Choose a message of the person, or any that they may see, mostly a new one."""
        found = [
            (uuid, message)
            for uuid in self.chats()
            for message in self.world.truth.chats[uuid].messages
            if not own or self._wrote(message.author)
        ]
        return found[-1 - pick % min(len(found), 12)] if found else None

    async def _edit(self, a: int, b: int, c: int) -> None:
        chosen = self._message(a, own=b % 6 > 0)
        if chosen is not None:
            chat, message = chosen
            text = "" if c % 9 == 0 else f"{self.next_text()} edited"
            self._judge_changed(chat, await self.api.edit(message.id, text), text)

    async def _redact(self, a: int, b: int, c: int) -> None:
        chosen = self._message(a, own=b % 3 > 0)
        if chosen is not None:
            chat, message = chosen
            self._judge_changed(chat, await self.api.redact(message.id), "")

    def _judge_changed(self, chat: str, message: Message, text: str) -> None:
        """Check that an accepted edit or redaction is committed."""
        whole = self.world.truth.chat(chat)
        versions = () if whole is None else whole.versions(message.message_index)
        told = (message.text, [str(file.uuid) for file in message.attachments])
        stored = any(stored_content(version) == told for version in versions)
        what = f"HTTP answered {told} to an edit with {text!r}, stored were {list(map(stored_content, versions))}"
        self.world.check(stored and message.text == text, "durable-before-visible", what)

    async def _sign_out(self, a: int, b: int, c: int) -> None:
        """Sign out, and check that the token is worthless then."""
        token = self.current
        await self.request("POST", "/api/sign-out")
        self.renew()
        try:
            answer = await self.http.get("/api/chats", headers={"Authorization": f"Bearer {token}"})
        except httpx.HTTPError:
            return
        refused = answer.status_code == 401 or answer.status_code in _ALWAYS_POSSIBLE
        self.world.check(refused, "signed-out", f"{self.name}: {answer.status_code} for a token after the sign-out")

    async def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response:
        """Send a request without a method of its own in the client. Raises ApiError and ApiUnreachable."""
        try:
            answer = await self.http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ApiUnreachable(str(error)) from error
        if not answer.is_success:
            raise ApiError(answer.status_code, self.code_of(answer), "")
        return answer

    @staticmethod
    def code_of(answer: httpx.Response) -> str:
        """The error code of an answer."""
        try:
            return str(answer.json()["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return f"http_{answer.status_code}"

    async def _look(self, a: int, b: int, c: int) -> None:
        """Read one chat, or a list of chats, over HTTP, and check the answer."""
        chat = self.chat(a)
        if b % 3 == 0 and chat is not None:
            seen = await self.api.chat(UUID(chat))
            self.world.check(str(seen.uuid) == chat, "list", f"{self.name}: asked for {chat}, got {seen.uuid}")
            return
        status = (None, *ChatStatus)[c % (len(ChatStatus) + 1)]
        for seen in await self.api.chats(status=status, limit=1 + b % 50):
            truth = self.world.truth.chats.get(str(seen.uuid))
            fine = truth is not None and self.may_see(truth) and status in (None, seen.status)
            self.world.check(fine, "list", f"{self.name}: {seen} in a list of {status}")

    async def _close(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        if chat is not None:
            await self.api.close(UUID(chat))

    async def _reopen(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        if chat is not None:
            await self.api.reopen(UUID(chat))

    async def _wrong_request(self, a: int, b: int, c: int) -> None:
        method, path, body, statuses = _WRONG_REQUESTS[a % len(_WRONG_REQUESTS)]
        try:
            answer = await self.http.request(method, path, content=body)
        except httpx.HTTPError:
            return
        fine = answer.status_code in statuses | _ALWAYS_POSSIBLE
        self.world.check(fine, "api", f"{method} {path} {body!r}: {answer.status_code} {answer.text[:200]}")

    # Final checks

    async def look_up(self) -> None:
        """Check that HTTP returns what was committed."""
        for _ in range(3):
            self.renew()
            if self.is_signed_out(self.issued):
                # The clock was set back: new tokens are older than the sign-out for a while.
                self.world.log(self.name, "is still signed out")
                return
            try:
                told = await self._listed()
                whole = {uuid: await self._walk(uuid) for uuid in self.chats()}
                break
            except (ApiError, ApiUnreachable) as error:
                self.world.log(self.name, "look up", type(error).__name__)
        else:
            self.world.fail("api", f"{self.name}: every read over HTTP fails")
            return
        truths = self.world.truth.chats
        # A chat may have been deleted since it was read.
        told = {each for each in told if each[0] in truths}
        listed = {(uuid, *truths[uuid].look) for uuid in self.chats() if truths[uuid].model.listed}
        self.world.check(told == listed, "list", f"{self.name}: {sorted(told)}, is {sorted(listed)}")
        for uuid, indexes in whole.items():
            if uuid in self.world.truth.expired:
                continue
            fine = indexes == truths[uuid].visible[self.who[0]]
            self.world.check(fine, "history", f"{self.name}: {uuid} has {indexes}")

    async def _listed(self) -> set[tuple[str, str, int | None]]:
        return {
            (str(chat.uuid), chat.status.value, None if chat.operator_user is None else chat.operator_user.id)
            for chat in await self.api.chats(limit=200)
        }

    async def _walk(self, uuid: str) -> list[int]:
        found: list[int] = []
        after = -1
        while True:
            page = await self.api.history(UUID(uuid), after=after, limit=50)
            found += [message.message_index for message in page.messages]
            if not page.has_more or page.to_index is None:
                return found
            after = page.to_index

    async def at_rest(self) -> None:
        """Check that the tabs have received everything, and that every send has its outcome."""
        self.tabs.at_rest()
        for sent in self.tabs.deliveries:
            await self._judge_delivery(sent.chat, sent.delivery.client_id, sent.delivery.text, sent.outcome())
        self._judge_order()

    async def _judge_delivery(
        self, chat: str, key: str, text: str, outcome: Message | NotAdded | Undelivered | None
    ) -> None:
        world, truth = self.world, self.world.truth
        what = f"{self.name}: {key} {text!r}"
        stored = truth.stored(chat, self.who, key)
        whole = truth.chat(chat)
        messages = () if whole is None else whole.messages
        twice = [each.index for each in messages if self._wrote(each.author) and self._was(chat, each.index, text)]
        if len(twice) > 1 and key not in self.again and "key_horizon" not in world.plan.setup.bounds:
            world.fail("stored-twice", f"{what} is {twice}")
        if outcome is None:
            world.fail("delivery", f"{what} never got an outcome")
        elif isinstance(outcome, NotAdded):
            if outcome.code != "conflict" and stored is not None and key not in self.again:
                world.fail("refused-though-stored", f"{what}: {outcome} and stored as {stored.index}")
        elif isinstance(outcome, Message) and not self._answers(chat, key, text, outcome):
            told = truth.message(chat, outcome.message_index)
            kind = "key-reuse" if key in self.again else "delivery"
            world.fail(kind, f"{what} was answered with {outcome.message_index}, which is {told}")

    def _wrote(self, author: User | None) -> bool:
        return author is not None and person_of(author) == self.who

    def _judge_order(self) -> None:
        places: dict[object, int] = {}
        for sent in self.tabs.deliveries:
            outcome = sent.outcome()
            if not isinstance(outcome, Message) or sent.delivery.client_id in self.again:
                continue
            index, before = outcome.message_index, places.get(sent.tab, -1)
            what = f"{self.name}: {sent.delivery.text!r} is {index} after {before}"
            self.world.check(index > before, "send-order", what)
            places[sent.tab] = index


class Visitor(Person):
    role = Role.USER

    def __init__(self, world: ChatWorld, name: str, id_: int) -> None:
        self.source = SOURCES[id_ % 2]
        self.sources: frozenset[str] = frozenset({self.source})
        super().__init__(world, name, id_)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {**super().handlers, "visit": self._visit}

    def may_see(self, chat: ChatTruth) -> bool:
        return chat.model.owner == self.who

    async def begin(self) -> None:
        await _until_answered(lambda: self.api.visit(self.source))

    async def _visit(self, a: int, b: int, c: int) -> None:
        """Open the chat as the widget does when a page opens: the one that is not closed, or a new one."""
        visit = await self.api.visit(self.source)
        chat = self.world.truth.chat(str(visit.chat.uuid))
        theirs = chat is not None and chat.model.owner == self.who
        self.world.check(theirs, "reserve", f"{self.name} was given the chat {visit.chat.uuid}")


class Operator(Person):
    role = Role.OPERATOR

    def __init__(self, world: ChatWorld, name: str, id_: int) -> None:
        self.sources: frozenset[str] = frozenset(SOURCES) if id_ % 2 else frozenset({"lk"})
        super().__init__(world, name, id_)
        self.site_rights = Rights.ADMIN if id_ == 1 else None
        self.consoles: Consoles = Consoles(self)
        self.administration: Administration = Administration(self)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {
            **super().handlers,
            **self.consoles.handlers,
            **self.administration.handlers,
            "accept": self._accept,
            "transfer": self._transfer,
            "give_back": self._give_back,
            "reserve": self._reserve,
            "note": self._note,
            "expire": self._expire,
        }

    def may_see(self, chat: ChatTruth) -> bool:
        return chat.model.source in self.sources

    async def begin(self) -> None:
        await _until_answered(self.api.operators)

    async def _accept(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        if chat is not None:
            await self.api.accept(UUID(chat))

    async def _transfer(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        if chat is not None:
            await self.api.transfer(UUID(chat), 1 + b % self.world.plan.setup.operators)

    async def _give_back(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        if chat is not None:
            await self.api.return_to_queue(UUID(chat))

    async def _reserve(self, a: int, b: int, c: int) -> None:
        """Reserve a chat for a visitor, who may have one already."""
        visitor = 1 + b % self.world.plan.setup.visitors
        source = sorted(self.sources)[a % len(self.sources)]
        if ("user", visitor) not in self.world.truth.people:
            return
        answer = await self.request("POST", "/api/chats", {"source": source, "owner": visitor})
        chat = str(answer.json()["uuid"])
        fine = self.world.truth.chat(chat) is not None
        self.world.check(fine, "reserve", f"{self.name} was given the chat {chat}")

    async def _note(self, a: int, b: int, c: int) -> None:
        chat = self.chat(a)
        if chat is not None:
            text = f"note {self.next_text()}"
            role = (Role.OPERATOR, Role.USER)[b % 2]
            await self.post(chat, text, f"{text}-key", type=MessageType.SYSTEM, type_role=role)

    async def _expire(self, a: int, b: int, c: int) -> None:
        """Get a token that expires soon."""
        self.renew(ttl=3 + b % 20)


async def _until_answered(ask: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await ask()
            return
        except (ApiError, ApiUnreachable):
            await trio.sleep(1)

"""A person's files: uploads, messages that have them, and downloads through their links."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final
from uuid import UUID

import attrs
import httpx
import trio

from actorchat.client import ApiError
from actorchat.protocol import Attachment, Message

if TYPE_CHECKING:
    from actorchat.testing.simulation.people import Person

__all__ = ["Files"]

_MOST_LINKS: Final = 20
_REFUSED: Final = frozenset({403, 503})
"""Answers to a download that are always possible: the link may have expired, and the store may be away."""


@attrs.frozen
class _Link:
    file: UUID
    url: str


class Files:
    """The files of one person. `uploaded` are their own, `_links` those that they may download."""

    def __init__(self, person: Person) -> None:
        self.uploaded: list[UUID] = []
        self._person = person
        self._world = person.world
        self._links: list[_Link] = []

    @property
    def handlers(self) -> Mapping[str, Callable[[int, int, int], Awaitable[None]]]:
        return {"upload": self._upload, "attach": self._attach, "fetch": self._fetch}

    def saw(self, messages: tuple[Message, ...]) -> None:
        """Remember the links to the messages' files."""
        for message in messages:
            self._remember(message.attachments)

    def pick(self, a: int, b: int) -> tuple[UUID, ...]:
        """Return one or two files for a message: mostly new ones, but also used ones and other people's."""
        others = sorted(self._world.contents) if b % 6 == 0 else self.uploaded[-3:]
        return tuple([others[(a + n) % len(others)] for n in range(1 + b % 2)]) if others else ()

    def _remember(self, attachments: tuple[Attachment, ...]) -> None:
        known = {link.file for link in self._links}
        self._links += [_Link(file.uuid, file.url) for file in attachments if file.uuid not in known]
        del self._links[:-_MOST_LINKS]

    async def _upload(self, a: int, b: int, c: int) -> None:
        content = f"the file {self._person.next_text()} ".encode() * (1 + b % 600)
        attachment = await self._person.api.upload(content, f"{a}.txt")
        self._world.contents[attachment.uuid] = content
        stored = attachment.uuid in self._world.truth.model.uploads or attachment.uuid in self._world.truth.gone
        self._world.check(stored, "durable-before-visible", f"the upload {attachment.uuid} is not committed")
        self.uploaded.append(attachment.uuid)
        self._remember((attachment,))

    async def _attach(self, a: int, b: int, c: int) -> None:
        """Send a message with files over HTTP."""
        person = self._person
        chat, files = person.chat(a), self.pick(b, c)
        if chat is None or not files:
            return
        text = person.next_text() if c % 4 else ""
        key = f"files-{person.next_text()}"
        person.keys.append((chat, key, text))
        person.again.add(key)
        await person.post(chat, text, key, files=files)

    async def _fetch(self, a: int, b: int, c: int) -> None:
        """Download a file: its bytes are the uploaded ones, and there are none after it was deleted."""
        if not self._links:
            return
        world, person = self._world, self._person
        link = self._links[a % len(self._links)]
        gone = link.file in world.truth.gone
        try:
            answer = await person.http.get(link.url)
        except httpx.HTTPError:
            return
        what = f"{person.name}: the file {link.file} at {trio.current_time():.3f}"
        if answer.is_success:
            world.check(not gone, "files", f"{what} was deleted, and is still sent")
            content = world.contents.get(link.file, answer.content)
            world.check(answer.content == content, "files", f"{what} has {len(answer.content)} other bytes")
        elif answer.status_code == 404:
            world.check(link.file in world.truth.gone, "files", f"{what} is not found")
        elif answer.status_code not in _REFUSED:
            raise ApiError(answer.status_code, person.code_of(answer), "")

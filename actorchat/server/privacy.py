"""Exports and erases everything that is stored about one person, and records both."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import IO, Final
from uuid import UUID

import trio

from actorchat.chat.documents import DocumentKey, DocumentKind
from actorchat.chat.model import ChatState, Identity, StoredAttachment, StoredMessage, wire_message
from actorchat.chat.operations import Changed, CloseChat, RedactMessage
from actorchat.chat.ports import ChatFilter
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.http.ports import Caller
from actorchat.protocol import Attachment, Role, User, encode_entity, wire_time
from actorchat.server.accounts import Accounts
from actorchat.server.attachments import Attachments

__all__ = ["Privacy", "UnknownPerson"]

PAGE: Final = 200
AT_ONCE: Final = 64
"""Messages that an erasure changes at a time, so that other operations need not wait for it."""

ERASABLE_CHATS: Final = 200


class UnknownPerson(LookupError):  # noqa: N818 - the state of a person
    """Nothing is stored about this person."""


class Privacy:
    """Exports and erases people. `clock` returns epoch seconds.

    Every method raises ChatRefused, StorageUnavailable and UnknownPerson.
    """

    def __init__(
        self, chats: ChatService, accounts: Accounts, attachments: Attachments, clock: Callable[[], float]
    ) -> None:
        self._chats = chats
        self._accounts = accounts
        self._attachments = attachments
        self._clock = clock

    async def sources_of(self, person: Identity) -> frozenset[str]:
        """The widget sources where the person owns chats, or that an operator belongs to."""
        record = await self._chats.chat_reader.person(person)
        if record is None:
            raise UnknownPerson(f"there is no {person.role} with the id {person.id}")
        if person.role is Role.OPERATOR:
            return frozenset(record.memberships)
        return frozenset([chat.source async for chat in self._chats_of(person)])

    async def audits(self, before: int | None, limit: int) -> tuple[AuditEntry, ...]:
        """Records of exports and erasures with a number below `before`, the newest first."""
        return await self._chats.chat_reader.audits(2**53 if before is None else before, limit)

    async def erase(self, person: Identity, by: str) -> dict[str, int]:
        """Erase a person: sign out, close the chats, remove messages and files, and then the name. Returns counts.

        A visitor's chats lose all their messages, an operator loses the messages that it wrote. Counters follow, and
        chats keep their uuids and indexes. An erasure that fails half way is completed by the next one.
        """
        await self.sources_of(person)
        counts: Counter[str] = Counter(chats=0, messages=0, files=0)
        await self._accounts.sign_out(Caller(User(person.id, person.role), frozenset(), inf))
        last = await self._erase_content(person, counts)
        await self._chats.people.erase(self._entry(AuditAction.ERASE, person, by, counts))
        # What was sent before the sign-out may have been stored meanwhile.
        late: Counter[str] = Counter()
        await self._erase_content(person, late, after=last)
        return {**counts, "messages": counts["messages"] + late["messages"], "files": counts["files"] + late["files"]}

    async def _erase_content(self, person: Identity, counts: Counter[str], after: int = 0) -> int:
        """Remove content; of an operator, only messages with an id above `after`. Returns the last message's id."""
        nobody, last = User(person.id, person.role), after
        if person.role is Role.USER:
            async with aclosing(self._chats_of(person)) as chats:
                async for chat in chats:
                    counts["chats"] += 1
                    if chat.active:
                        # An export before had none of these messages.
                        counts["messages"] -= await self._close(chat, nobody)
                    await self._erase_messages(self._messages_of(chat.uuid), nobody, counts)
        else:
            last = await self._erase_messages(self._written_by(person, after), nobody, counts) or after
        uploads = await self._chats.chat_reader.uploads_of(person)
        if uploads:
            # Of any age, because the clock may have been set back since they were uploaded.
            unused = await self._chats.expire_uploads(uploads, inf)
            self._attachments.remove_soon(unused)
            counts["files"] += len(unused)
        for key in [key async for key, _ in self._documents_of(person)]:
            await self._chats.change_document(key, lambda _: None)
        return last

    async def export(self, person: Identity, by: str, target: Path) -> dict[str, int]:
        """Write everything about a person to the new zip file `target`, and return counts.

        Raises OSError, also if there is such a file. Then no file is left.
        """
        await self.sources_of(person)
        file = await trio.to_thread.run_sync(_create, target)
        try:
            counts = await self._write(person, file)
            await self._chats.record_audit(self._entry(AuditAction.EXPORT, person, by, counts))
        except BaseException:
            # Shielded, because the file of a cancelled export must not stay. It takes one call of the file system.
            with trio.CancelScope(shield=True), suppress(OSError):
                await trio.Path(target).unlink()
            raise
        finally:
            file.close()
        return dict(counts)

    def _entry(self, action: AuditAction, person: Identity, by: str, counts: Counter[str]) -> AuditEntry:
        return AuditEntry(int(self._clock()), by, action, person, dict(counts))

    async def _documents_of(self, person: Identity) -> AsyncIterator[tuple[DocumentKey, str]]:
        """The pages that a visitor has viewed; the saved replies and settings of an operator."""
        if person.role is Role.USER:
            scopes = [(DocumentKind.VISIT, str(person.id))]
        else:
            scopes = [(DocumentKind.REPLY, f"@{person.id}"), (DocumentKind.SETTINGS, str(person.id))]
        for kind, scope in scopes:
            for name, text in await self._chats.chat_reader.documents(kind, scope):
                yield DocumentKey(kind, scope, name), text

    async def _close(self, chat: ChatState, nobody: User) -> int:
        """Close a chat. Returns the number of messages that say so."""
        try:
            decision = await self._chats.perform(CloseChat(chat.uuid, nobody))
        except ChatRefused as refused:
            # Somebody has closed it meanwhile.
            if refused.code != "chat_closed":
                raise
            return 0
        return len(decision.messages) if isinstance(decision, Changed) else 0

    async def _chats_of(self, person: Identity) -> AsyncGenerator[ChatState, None]:
        which: ChatFilter | None = ChatFilter(owner_id=person.id, limit=ERASABLE_CHATS)
        while which is not None:
            page = await self._chats.chat_reader.chats(which)
            for chat in page.chats:
                yield chat
            which = (
                None if page.next is None else ChatFilter(owner_id=person.id, limit=ERASABLE_CHATS, before=page.next)
            )

    async def _messages_of(self, chat: UUID) -> AsyncGenerator[tuple[UUID, int], None]:
        async with aclosing(self._history(chat)) as history:
            async for _, message in history:
                if not message.redacted:
                    yield chat, message.id

    async def _history(self, chat: UUID) -> AsyncGenerator[tuple[ChatState, StoredMessage], None]:
        """All messages of a chat, for both roles."""
        rev = 0
        while True:
            page = await self._chats.chat_reader.since(chat, rev=rev, limit=PAGE)
            if page is None:
                return
            messages = page.messages
            if page.has_more:
                # The page may end within the messages of one revision, which are left for the next page.
                messages = tuple(message for message in messages if message.rev < page.messages[-1].rev)
            for message in messages:
                yield page.chat, message
            if not page.has_more:
                return
            rev = messages[-1].rev

    async def _written_by(self, person: Identity, after: int = 0) -> AsyncGenerator[tuple[UUID, int], None]:
        while found := await self._chats.chat_reader.written_by(person, after, PAGE):
            for chat, message_id in found:
                yield chat, message_id
            after = found[-1][1]

    async def _erase_messages(
        self, messages: AsyncGenerator[tuple[UUID, int], None], nobody: User, counts: Counter[str]
    ) -> int:
        """Redact messages, several at once. Returns the id of the last one, 0 if there were none."""
        last = 0
        slots = trio.Semaphore(AT_ONCE)
        failed: list[Exception] = []

        async def erase(chat: UUID, message_id: int) -> None:
            try:
                operation = RedactMessage(chat, nobody, message_id, moderates=True, erases=True)
                decision = await self._chats.perform(operation)
            except Exception as error:
                failed.append(error)
                return
            finally:
                slots.release()
            if isinstance(decision, Changed):
                counts["messages"] += 1
                counts["files"] += len(decision.removed)

        async with aclosing(messages), trio.open_nursery() as nursery:
            try:
                async for chat, last in messages:
                    await slots.acquire()
                    if failed:
                        break
                    nursery.start_soon(erase, chat, last)
            except Exception as error:
                # The nursery would raise it in a group.
                failed.append(error)
        if failed:
            raise failed[0]
        return last

    async def _write(self, person: Identity, file: IO[bytes]) -> Counter[str]:
        counts: Counter[str] = Counter(chats=0, messages=0, files=0)
        run = trio.to_thread.run_sync
        record = await self._chats.chat_reader.person(person)
        files: dict[UUID, StoredAttachment] = {}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            profile = {} if record is None else json.loads(encode_entity(record.user))
            documents = [
                {"kind": key.kind, "content": json.loads(text)} async for key, text in self._documents_of(person)
            ]
            about = {"person": profile, "documents": documents, "exported_at": wire_time(int(self._clock()))}
            await run(partial(archive.writestr, "person.json", json.dumps(about, ensure_ascii=False, indent=2)))
            if person.role is Role.USER:
                async with aclosing(self._chats_of(person)) as chats:
                    async for chat in chats:
                        counts["chats"] += 1
                        history = self._history(chat.uuid)
                        await self._write_messages(archive, f"chats/{chat.uuid}.json", history, counts, files)
            else:
                written = self._read_each(self._written_by(person))
                await self._write_messages(archive, "messages.json", written, counts, files)
            for attachment in files.values():
                with archive.open(f"files/{_name(attachment)}", "w", force_zip64=True) as entry:
                    async with aclosing(self._attachments.read_file(attachment)) as parts:
                        async for part in parts:
                            await run(entry.write, part)
                counts["files"] += 1
        await run(_sync, file)
        return counts

    async def _read_each(
        self, messages: AsyncGenerator[tuple[UUID, int], None]
    ) -> AsyncGenerator[tuple[ChatState, StoredMessage], None]:
        async with aclosing(messages):
            async for chat, message_id in messages:
                located = await self._chats.chat_reader.located(message_id)
                page = None
                if located is not None:
                    page = await self._chats.chat_reader.authored(
                        chat, Role.OPERATOR, after=located[1] - 1, upto=located[1], limit=1
                    )
                if page is not None and page.messages:
                    yield page.chat, page.messages[0]

    async def _write_messages(
        self,
        archive: zipfile.ZipFile,
        name: str,
        messages: AsyncGenerator[tuple[ChatState, StoredMessage], None],
        counts: Counter[str],
        files: dict[UUID, StoredAttachment],
    ) -> None:
        run = trio.to_thread.run_sync
        async with aclosing(messages):
            with archive.open(name, "w", force_zip64=True) as entry:
                await run(entry.write, b"[")
                separator = b"\n"
                async for chat, message in messages:
                    files.update({file.uuid: file for file in message.attachments})
                    shown = wire_message(chat, message, tuple(map(_exported, message.attachments)))
                    await run(entry.write, separator + encode_entity(shown))
                    separator = b",\n"
                    counts["messages"] += 1
                await run(entry.write, b"\n]\n")


def _create(target: Path) -> IO[bytes]:
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "w+b")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _name(file: StoredAttachment) -> str:
    return f"{file.uuid}-{file.filename.replace(os.sep, '_')}"


def _exported(file: StoredAttachment) -> Attachment:
    """The file as the export shows it: its link leads into the zip file."""
    return Attachment(file.uuid, file.type, f"files/{_name(file)}", "", file.filename, file.extension, file.size)

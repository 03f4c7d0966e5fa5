"""Opens the storage of a server with its files and keys, and registers it among the nodes."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

import attrs

from actorchat.chat.accounts import Account
from actorchat.chat.blocks import Block
from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes.node import Node
from actorchat.nodes.registry import NameTaken
from actorchat.server.attachment_store import AttachmentStore, open_attachment_store
from actorchat.server.auth import Tokens
from actorchat.server.bootstrap import StartFailed, new_folder, prepare_tokens
from actorchat.server.environment import Environment
from actorchat.server.node import check_secrets, open_node, replaced_by, warn_of_other_buses
from actorchat.server.restore_plan import BackupFailed, complete_restore
from actorchat.server.settings import Settings, broker_urls
from actorchat.storage import Storage, StoreUrlError

__all__ = ["Base", "open_base"]

_log: Final = logging.getLogger("actorchat.server")


@attrs.frozen(kw_only=True)
class Base:
    """The parts that are open before the first task starts, with the accounts and blocks as they are stored.

    `writer` names this server's commits. `node` is None if no other servers can use the storage.
    """

    storage: Storage
    files: AttachmentStore
    tokens: Tokens
    writer: str
    node: Node | None
    accounts: tuple[Account, ...]
    blocks: tuple[Block, ...]


async def open_base(
    stack: AsyncExitStack, settings: Settings, environment: Environment, sockets: tuple[socket.socket, ...]
) -> Base:
    """Open what can fail. A failed start leaves no new folder and no secret. Raises StartFailed.

    It comes before the first nursery, which would wrap a failed start in an exception group. `sockets` are those that
    the server listens on.
    """
    prepared = prepare_tokens(settings, environment.wall)
    with new_folder(settings.folder), _complete_restore(settings), prepared as make_tokens, _storage_failures():
        files = await stack.enter_async_context(open_attachment_store(settings, environment.open_blobs))
        storage = await stack.enter_async_context(
            environment.open_store(
                settings.storage_url,
                settings.policy,
                clock=environment.wall,
                brokers=[url.name for url in broker_urls(settings)],
                folder=environment.process_folder or settings.folder,
            )
        )
        files.use_for(storage.identity)
        writer = f"{environment.random.getrandbits(128):032x}"
        node = await open_node(stack, settings, environment, storage, writer, sockets)
        accounts, blocks = await storage.chat_reader.accounts(), await storage.chat_reader.blocks()
        tokens = make_tokens()
        if node is not None:
            await check_secrets(node, tokens)
            warn_of_other_buses(node)
    return Base(storage=storage, files=files, tokens=tokens, writer=writer, node=node, accounts=accounts, blocks=blocks)


@contextmanager
def _storage_failures() -> Iterator[None]:
    try:
        yield
    except (StorageUnavailable, StoreUrlError) as error:
        raise StartFailed(f"the storage can't be used: {error}") from None
    except NameTaken as error:
        raise StartFailed(str(replaced_by(error.holder))) from None


@contextmanager
def _complete_restore(settings: Settings) -> Iterator[None]:
    """Before the block, finish a restore that was killed after it had taken effect."""
    path = settings.database_file
    if settings.folder is not None and path is not None:
        try:
            if complete_restore(settings.folder, path):
                _log.warning("a restore that had been interrupted is complete now")
        except (BackupFailed, StorageUnavailable, StoreUrlError) as error:
            raise StartFailed(f"an interrupted restore can't be completed: {error}") from None
    yield

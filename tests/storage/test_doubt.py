"""After a COMMIT whose answer was lost, `recover` knows whether the batch is stored, and it stays so."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage
from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.store import Batch
from actorchat.testing import check_doubt
from tests.postgres_server import PostgresServer
from tests.storage.cutting_proxy import CuttingProxy
from tests.storage.sample_chat import ANN, CHAT, NOW, RESERVE, all_messages


@contextmanager
def behind_a_proxy(server: PostgresServer, url: str) -> Iterator[tuple[PostgresStore, CuttingProxy]]:
    proxy = CuttingProxy(server.port)
    try:
        with closing(PostgresStore(url.replace(f":{server.port}/", f":{proxy.port}/"), Policy())) as store:
            yield store, proxy
    finally:
        proxy.close()


@pytest.mark.slow
def test_a_commit_in_doubt_is_found_out_for_good(
    postgres_server: PostgresServer, new_postgres: Callable[[], str]
) -> None:
    url = new_postgres()
    with behind_a_proxy(postgres_server, url) as (store, proxy):
        stored = check_doubt(store, proxy, late=(0.6, 2.0, 6.0))
        # The server has ended the last transaction when its COMMIT arrives.
        assert stored == [False, True, True, True, False]
        logged = store.batches("writer", after=1, upto=99, limit=99)
        # Each names the one before it, although some were never stored.
        assert [row.previous for row in logged] == [1, *(row.number for row in logged[:-1])]
        assert store.messages_stored == len(logged) == 9
        assert store.losses == 0


@pytest.mark.slow
def test_a_store_that_takes_a_lost_commit_for_stored_does_not_pass(
    postgres_server: PostgresServer, new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recover = PostgresStore.recover
    monkeypatch.setattr(PostgresStore, "recover", lambda store, batch: recover(store, batch) or True)
    with behind_a_proxy(postgres_server, new_postgres()) as (store, proxy), pytest.raises(AssertionError):
        check_doubt(store, proxy, late=())


def test_what_is_left_of_a_fenced_transaction_writes_nothing(new_postgres: Callable[[], str]) -> None:
    url = new_postgres()
    with closing(PostgresStore(url, Policy())) as store, closing(PostgresStore(url, Policy())) as successor:
        store.commit([RESERVE], Batch("w", 1, NOW))
        assert successor.recover(Batch("w", 1, NOW))
        with pytest.raises(StorageUnavailable, match="writer has changed"):
            store.commit([AddMessage(CHAT, ANN, "late")], Batch("w", 2, NOW))
        assert all_messages(store) == []
        assert not store.recover(Batch("w", 2, NOW))
        store.commit([AddMessage(CHAT, ANN, "again")], Batch("w", 3, NOW))
        assert [message.text for message in all_messages(store)] == ["again"]

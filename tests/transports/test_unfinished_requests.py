"""Which connection with an unfinished request is closed first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorchat.transports.unfinished_requests import UnfinishedRequests, site_of


def test_the_oldest_connection_of_the_largest_address_is_chosen() -> None:
    unfinished_requests = UnfinishedRequests[int]()
    for number, address in enumerate(("a", "b", "b", "c", "b", "a")):
        unfinished_requests.add(number, address)
    assert (unfinished_requests.choose(), unfinished_requests.most, unfinished_requests.addresses) == (1, ("b", 3), 3)
    unfinished_requests.discard(1)
    unfinished_requests.discard(1)
    # Both addresses have two connections; b reached that number last.
    assert (unfinished_requests.choose(), unfinished_requests.most) == (0, ("a", 2))


def test_of_many_addresses_with_one_connection_the_oldest_is_chosen() -> None:
    unfinished_requests = UnfinishedRequests[int]()
    for number in range(5):
        unfinished_requests.add(number, f"192.0.2.{number}")
    order = []
    while unfinished_requests:
        order.append(unfinished_requests.choose())
        unfinished_requests.discard(order[-1])
    assert order == [0, 1, 2, 3, 4]


def test_a_postponed_connection_is_chosen_last() -> None:
    unfinished_requests = UnfinishedRequests[int]()
    for number, address in enumerate(("a", "a", "b", "b")):
        unfinished_requests.add(number, address)
    unfinished_requests.postpone(0)
    assert unfinished_requests.choose() == 2
    unfinished_requests.postpone(2)
    assert unfinished_requests.choose() == 1


def test_without_connections_none_is_chosen() -> None:
    with pytest.raises(LookupError):
        UnfinishedRequests[int]().choose()
    with pytest.raises(LookupError):
        UnfinishedRequests[int]().most  # noqa: B018 - it raises


@given(st.lists(st.tuples(st.sampled_from("apd"), st.integers(0, 9), st.sampled_from("wxyz"))))
def test_the_choice_is_always_of_an_address_with_the_most(steps: list[tuple[str, int, str]]) -> None:
    unfinished_requests, model = UnfinishedRequests[int](), dict[int, str]()
    for step, member, address in steps:
        if step == "a" and member not in model:
            unfinished_requests.add(member, address)
            model[member] = address
        elif step == "p" and member in model:
            unfinished_requests.postpone(member)
        elif step == "d":
            unfinished_requests.discard(member)
            model.pop(member, None)
        assert len(unfinished_requests) == len(model)
        if model:
            addresses = list(model.values())
            most = max(map(addresses.count, addresses))
            assert addresses.count(model[unfinished_requests.choose()]) == most
            assert unfinished_requests.most == (model[unfinished_requests.choose()], most)


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("not an address: at all", "not an address: at all"),
        ("", ""),
    ],
)
def test_a_site_is_the_network_of_one_customer(address: str, site: str) -> None:
    assert site_of(address) == site

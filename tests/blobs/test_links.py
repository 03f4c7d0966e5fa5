"""Tickets let one reader read one file for a while."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorchat.blobs.links import BadTicket, SignedLinks
from actorchat.chat.links import TICKET_CHARS, attachments_for, fill_links, unfilled_attachments
from actorchat.chat.model import Identity, StoredAttachment
from actorchat.protocol import AttachmentType, Frames, Role, attachments_fragment

FILE = UUID(int=7)
ANNA = Identity(Role.USER, 2**53 - 1)
OLGA = Identity(Role.OPERATOR, 1)
NOW = 1_700_000_100.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def signed(clock: Clock | None = None, key: bytes = b"k" * 32) -> SignedLinks:
    return SignedLinks(key, clock or Clock(), seconds=600)


@given(st.uuids(), st.sampled_from(Role), st.integers(-(2**53), 2**53))
def test_a_ticket_names_its_reader_and_has_one_length(file: UUID, role: Role, id_: int) -> None:
    links, reader = signed(), Identity(role, id_)
    ticket = links.ticket(file, reader)
    assert len(ticket) == TICKET_CHARS
    assert links.check(file, ticket)[0] == reader


def test_a_ticket_lasts_between_one_and_two_periods_and_stays_the_same_within_one() -> None:
    clock = Clock()
    links = signed(clock)
    first = links.ticket(FILE, ANNA)
    until = links.check(FILE, first)[1]
    assert NOW + 600 < until <= NOW + 1_200
    clock.now = until - 600.5
    assert links.ticket(FILE, ANNA) == first
    clock.now = until - 600
    assert links.ticket(FILE, ANNA) != first
    clock.now = until - 0.5
    links.check(FILE, first)
    clock.now = until
    with pytest.raises(BadTicket, match="expired"):
        links.check(FILE, first)


def test_a_ticket_is_good_for_no_other_file_reader_or_server() -> None:
    links = signed()
    ticket = links.ticket(FILE, ANNA)
    with pytest.raises(BadTicket, match="not for this file"):
        links.check(UUID(int=8), ticket)
    with pytest.raises(BadTicket, match="not of this server"):
        signed(key=b"l" * 32).check(FILE, ticket)
    # The reader and the end are its first sixteen characters.
    other = links.ticket(FILE, OLGA)
    with pytest.raises(BadTicket):
        links.check(FILE, other[:16] + ticket[16:])


@pytest.mark.parametrize("ticket", ["", "x", "я" * 40, "!" * 40, "A" * 40, "A" * 44, "A" * 39 + "="])
def test_what_is_no_ticket_is_refused(ticket: str) -> None:
    with pytest.raises(BadTicket):
        signed().check(FILE, ticket)


def test_frames_encoded_once_become_those_of_each_reader() -> None:
    links = signed()
    files = [
        StoredAttachment(FILE, AttachmentType.IMAGE, 'a "b" ?ticket=.png', "png", 5, 3),
        StoredAttachment(UUID(int=8), AttachmentType.FILE, "я.bin", "bin", 5),
    ]
    unfilled = Frames.of([b'{"a":' + unfilled_attachments(files, links) + b"}", b"{}"])
    for reader in (ANNA, OLGA):
        filled = fill_links(unfilled, reader, links)
        wanted = attachments_fragment(attachments_for(files, reader, links))
        assert filled.payloads() == (b'{"a":' + wanted + b"}", b"{}")
        assert filled.ends == unfilled.ends


def test_a_file_without_a_preview_has_no_link_to_one() -> None:
    [attachment] = attachments_for([StoredAttachment(FILE, AttachmentType.FILE, "a", "", 5)], ANNA, signed())
    assert attachment.url.startswith(f"/api/attachments/{FILE}?ticket=")
    assert attachment.url_preview == ""

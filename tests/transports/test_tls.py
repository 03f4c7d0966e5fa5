"""Websockets and HTTP over TLS."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from actorchat.protocol import CloseCode, Frames
from actorchat.testing import RawPeer, RecordingApplication, admission_of
from actorchat.testing._transport_harness import until
from actorchat.transports.listener import Listener, bind
from actorchat.transports.ports import Limits
from tests.transports.dialers import SocketDialer, echo_http, open_sockets, read_all


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@asynccontextmanager
async def dialed(
    certificate: Path, application: RecordingApplication, limits: Limits | None = None
) -> AsyncIterator[tuple[SocketDialer, trio.SSLStream[trio.SocketStream]]]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=certificate)
    with trio.fail_after(20):
        async with open_sockets(application, limits or Limits(), trio.current_time, tls=server) as dialer:
            stream = trio.SSLStream(await dialer.connect(), client, server_hostname="localhost", https_compatible=True)
            yield dialer, stream
            await trio.aclose_forcefully(stream)


async def test_peers_that_stall_in_the_tls_handshake_keep_no_other_out(certificate: Path) -> None:
    application = RecordingApplication()
    async with dialed(certificate, application) as (dialer, _):
        dialer.listener.close()
        server, client = (
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
            ssl.create_default_context(cafile=certificate),
        )
        server.load_cert_chain(certificate)
        dialer.listener = Listener(
            await bind("127.0.0.1", 0),
            transport=dialer.transport,
            authorize=dialer.authorize,
            http=echo_http,
            tls=server,
            max_unfinished=2,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(dialer.listener.serve)
            silent = [await dialer.connect() for _ in range(8)]
            for peer in silent:
                await peer.send_all(b"\x16\x03\x01")
            stream = trio.SSLStream(await dialer.connect(), client, server_hostname="localhost", https_compatible=True)
            request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await stream.send_all(request)
            assert (await stream.receive_some()).endswith(request)
            for each in (stream, *silent):
                await trio.aclose_forcefully(each)
            nursery.cancel_scope.cancel()


async def test_websockets_work_over_tls(certificate: Path) -> None:
    application = RecordingApplication()
    async with dialed(certificate, application) as (dialer, stream):
        dialer.verdicts.append(admission_of(1))
        peer = RawPeer(stream)
        await peer.handshake()
        await peer.send_text('{"type":"send_message","data":{"text":"a"}}')
        await until(lambda: application.texts == ["a"], "the command arrives")
        session = application.sessions[0]
        for number in range(500):
            session.push(Frames.of([b"%d" % number]))
        session.close(CloseCode.SIGNED_OUT)
        got = [await peer.receive() for _ in range(500)]
        assert got == [b"%d" % number for number in range(500)]
        await peer.read_to_end()
        assert peer.close_code == CloseCode.SIGNED_OUT
        await until(lambda: dialer.open_sockets == 0, "the socket ends")


async def test_a_slow_reader_over_tls_is_closed_and_reset(certificate: Path) -> None:
    application = RecordingApplication()
    limits = Limits(outbox_bytes=100_000, overflow_linger=0.05)
    async with dialed(certificate, application, limits) as (dialer, stream):
        dialer.verdicts.append(admission_of(1))
        await RawPeer(stream).handshake()
        await until(lambda: bool(application.sessions), "the peer joins")
        for _ in range(2_000):
            application.sessions[0].push(Frames.of([b"x" * 1_000]))
        assert application.sessions[0].buffered_bytes < 110_000
        await until(lambda: dialer.open_sockets == 0, "the socket ends")


async def test_http_over_tls_is_replayed_too(certificate: Path) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    async with dialed(certificate, RecordingApplication()) as (_, stream):
        await stream.send_all(request)
        assert (await read_all(stream)).endswith(request)


async def test_plain_http_on_a_tls_port_is_closed(certificate: Path) -> None:
    async with dialed(certificate, RecordingApplication()) as (dialer, _), await dialer.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await read_all(stream)

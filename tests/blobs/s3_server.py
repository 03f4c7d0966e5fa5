"""A real S3 service for the tests: SeaweedFS from its wheel."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from actorchat.blobs.s3_requests import open_s3_requests
from actorchat.blobs.s3_urls import parse_s3_url
from tests.brokers.servers import BrokerServer, free_port

ACCESS_KEY, SECRET_KEY = "test-access", "test-secret-0123456789"
BUCKET = "chats"

WEED = str(Path(sys.executable).with_name("weed"))


class S3Server(BrokerServer):
    """A master, a volume server, a filer and the S3 gateway in one process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        self._ports = {
            f"-{part}.port{kind}": free_port() for part in ("master", "volume", "filer") for kind in ("", ".grpc")
        }
        self._grpc = free_port()

    @property
    def command(self) -> Sequence[str]:
        options = [f"{name}={port}" for name, port in self._ports.items()]
        options += [f"-s3.port={self.port}", f"-s3.port.grpc={self._grpc}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        options += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder / 'data'}", "-filer", "-s3"]
        options += [f"-s3.config={self.folder / 's3.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
        return [WEED, "server", *options, "-master.telemetry=false"]

    def url(
        self, prefix: str = "", *, bucket: str = BUCKET, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY
    ) -> str:
        return f"s3://{access_key}:{secret_key}@{bucket}/{prefix}?endpoint=http://127.0.0.1:{self.port}"

    def start(self) -> None:
        super().start()
        trio.run(self._make_bucket)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    async def _make_bucket(self) -> None:
        async with open_s3_requests(parse_s3_url(self.url())) as requests:
            await requests.send("PUT", "", expected=(200, 409))

    def _answers(self, sock: socket.socket) -> bool:
        sock.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        return sock.recv(12).startswith(b"HTTP/1.1 200")

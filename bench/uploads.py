"""Measures attachments: the rate of uploads, the memory that a large one takes, and the rate of previews."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from random import Random
from subprocess import Popen
from tempfile import TemporaryDirectory

import httpx

from bench.run_plan import Plan
from bench.servers import SQLITE, UPLOADS_STARLETTE, Unavailable, actorchat_on, anonymous_kib, private_kib

__all__ = ["attachments"]

MIB = 1_048_576
FILE_MIB = 32
LARGE_MIB = 256
UPLOADERS = (1, 4)
COPY = "copy to the disk"
PILLOW = "Pillow alone"
PICTURE = (4_000, 3_000)
PICTURES = 24
TIMEOUT = 120.0

Upload = Callable[[bytes], None]


def attachments(plan: Plan) -> None:
    """Uploads of one client and of several, the memory of a large upload, and previews of photographs."""
    report, ours, theirs = plan.report, SQLITE.name, UPLOADS_STARLETTE.name
    rates = {count: report.runs(f"uploads of {FILE_MIB} MiB, {_uploaders(count)}", "MB/s") for count in UPLOADERS}
    memory = report.runs(f"memory during an upload of {LARGE_MIB} MiB", "KiB", less=True)
    previews = report.runs(f"photographs of {PICTURE[0] * PICTURE[1] // 10**6} megapixels with previews", "per second")
    for runs in rates.values():
        report.ask(f"{runs.case}, x {theirs}", runs.case, ours, (runs.case, theirs), 0.5)
    report.ask_value(f"{memory.case}, KiB", memory.case, ours, 8_192.0, most=True, timed=False)
    report.ask(f"photographs with previews, x {PILLOW}", previews.case, ours, (previews.case, PILLOW), 0.7)
    content = Random(1).randbytes(FILE_MIB * MIB)
    photograph = _photograph()
    for _ in plan.each_round("attachments", steps=4):
        plan.step(f"attachments: {COPY}")
        for count, runs in rates.items():
            runs.add(COPY, _copy_rate(content, count))
        previews.add(PILLOW, _pillow_rate(photograph))
        for who, open_server in ((theirs, _starlette), (ours, _actorchat)):
            plan.step(f"attachments: {who}")
            try:
                with open_server() as (process, upload):
                    # The first upload imports and makes what later ones use.
                    upload(photograph)
                    memory.add(who, _growth_kib(process, upload))
                    for count, runs in rates.items():
                        files = 2 * count if plan.quick else 4 * count
                        runs.add(who, files * len(content) / _seconds(upload, content, files, count) / 1e6)
                    if who == ours:
                        plan.step("attachments: previews")
                        seconds = _seconds(upload, photograph, PICTURES, 4)
                        previews.add(who, PICTURES / seconds)
            except Unavailable as absent:
                report.leave_out(who, str(absent))


def _uploaders(count: int) -> str:
    return "one uploader" if count == 1 else f"{count} uploaders"


@contextmanager
def _actorchat() -> Iterator[tuple[Popen[bytes], Upload]]:
    with TemporaryDirectory() as name, actorchat_on(Path(name)) as (port, process):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            visitor = client.post("/api/visitors", json={"source": "lk"}).raise_for_status().json()
        yield process, _uploader(port, f"Authorization: Bearer {visitor['token']}\r\n")


@contextmanager
def _starlette() -> Iterator[tuple[Popen[bytes], Upload]]:
    with UPLOADS_STARLETTE.start() as target:
        yield target.process, _uploader(target.port, "")


def _uploader(port: int, headers: str) -> Upload:
    """Return a function that uploads a file. Sockets are used directly, because clients copy each body."""
    before = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    after = b"\r\n--b--\r\n"

    def upload(content: bytes) -> None:
        size = len(before) + len(content) + len(after)
        head = (
            f"POST /api/attachments HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {size}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
            # A server that refuses closes before it has read everything.
            with suppress(BrokenPipeError, ConnectionResetError):
                for part in (head.encode() + before, content, after):
                    sock.sendall(part)
            answer = sock.recv(4_096)
        if not answer.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(f"an upload was answered with {answer[:80]!r}")

    return upload


def _seconds(upload: Upload, content: bytes, files: int, uploaders: int) -> float:
    """Upload the content `files` times, by so many uploaders at once. Returns how long it took."""
    begin = time.monotonic()
    with ThreadPoolExecutor(uploaders) as threads:
        for done in [threads.submit(upload, content) for _ in range(files)]:
            done.result()
    return time.monotonic() - begin


def _growth_kib(process: Popen[bytes], upload: Upload) -> float:
    """How much the private memory of the server grows, at most, while it receives a large file."""
    before = private_kib(process)
    peak, ended = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, anonymous_kib(process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        upload(bytes(LARGE_MIB * MIB))
    finally:
        ended.set()
        thread.join()
    return float(peak - before)


def _copy_rate(content: bytes, count: int) -> float:
    """Write the files that so many uploaders send, with the bytes flushed to the disk. Returns MB/s."""

    def write(path: Path) -> None:
        view = memoryview(content)
        with path.open("wb") as file:
            for start in range(0, len(content), MIB // 4):
                file.write(view[start : start + MIB // 4])
            file.flush()
            os.fsync(file.fileno())

    with TemporaryDirectory() as name, ThreadPoolExecutor(count) as threads:
        begin = time.monotonic()
        list(threads.map(write, [Path(name, str(number)) for number in range(2 * count)]))
        return 2 * count * len(content) / (time.monotonic() - begin) / 1e6


def _photograph() -> bytes:
    from PIL import Image

    made = BytesIO()
    noise = Image.effect_noise(PICTURE, 40)
    Image.merge("RGB", [noise, noise.rotate(90, expand=True).resize(PICTURE), noise]).save(made, "JPEG", quality=85)
    return made.getvalue()


def _pillow_rate(photograph: bytes) -> float:
    """Make the same previews in this process, in one thread. Returns previews per second."""
    from PIL import Image

    begin = time.monotonic()
    for _ in range(PICTURES):
        with Image.open(BytesIO(photograph)) as image:
            image.draft("RGB", (960, 960))
            image.thumbnail((480, 480))
            image.save(BytesIO(), "WEBP", quality=80)
    return PICTURES / (time.monotonic() - begin)

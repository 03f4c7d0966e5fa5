"""Which images get a preview, and how much memory it may take."""

import ctypes
import gc
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image

from actorchat.blobs.previews import DECODED_PIXELS, EDGE, MAX_PIXELS, ImageTooLarge, Previews


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose head says that it is that large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
async def test_an_image_gets_a_preview_with_a_short_edge(form: str, tmp_path: Path) -> None:
    Image.new("RGB", (2_000, 1_000), "red").save(tmp_path / "image", form)
    assert await Previews().make(tmp_path / "image", f"image/{form.lower()}", tmp_path / "preview")
    with Image.open(tmp_path / "preview") as preview:
        assert (preview.format, preview.size) == ("WEBP", (EDGE, EDGE // 2))


async def test_a_preview_is_turned_as_the_camera_was_and_tells_no_place(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    Image.new("RGB", (100, 50), "red").save(tmp_path / "image", "JPEG", exif=exif)
    assert await Previews().make(tmp_path / "image", "image/jpeg", tmp_path / "preview")
    with Image.open(tmp_path / "preview") as preview:
        assert preview.size == (50, 100)
        assert not preview.getexif()


async def test_transparency_is_kept(tmp_path: Path) -> None:
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "image", "PNG")
    assert await Previews().make(tmp_path / "image", "image/png", tmp_path / "preview")
    with Image.open(tmp_path / "preview") as preview:
        assert preview.mode == "RGBA"


async def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(png_that_claims(MAX_PIXELS // 1_000 + 1, 1_000))
    with pytest.raises(ImageTooLarge, match="pixels"):
        await Previews().make(tmp_path / "bomb", "image/png", tmp_path / "preview")
    assert not (tmp_path / "preview").exists()


async def test_a_large_image_is_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(png_that_claims(DECODED_PIXELS // 1_000 + 1, 1_000))
    assert not await Previews().make(tmp_path / "large", "image/png", tmp_path / "preview")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
async def test_a_file_of_many_bytes_is_not_read_into_memory(form: str, tmp_path: Path) -> None:
    path = tmp_path / "long"
    if form == "PNG":
        # A single chunk before the pixels, as long as the file.
        path.write_bytes(png_that_claims(10, 10)[:33] + struct.pack(">I", 80_000_000) + b"iCCP")
    else:
        Image.new("RGB", (100, 50), "red").save(path, form)
    with path.open("ab") as file:
        file.truncate(90_000_000)
    await Previews().make(path, f"image/{form.lower()}", tmp_path / "preview")
    tracemalloc.start()
    try:
        assert not await Previews().make(path, f"image/{form.lower()}", tmp_path / "preview")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


async def test_a_bomb_of_many_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(png_that_claims(MAX_PIXELS // 1_000 + 1, 1_000))
    with (tmp_path / "bomb").open("ab") as file:
        file.truncate(90_000_000)
    with pytest.raises(ImageTooLarge, match="pixels"):
        await Previews().make(tmp_path / "bomb", "image/png", tmp_path / "preview")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much memory a moment took")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
async def test_a_preview_takes_little_more_memory_than_its_image(mode: str, tmp_path: Path) -> None:
    side = 3_000
    Image.new(mode, (side, side)).save(tmp_path / "image", "PNG")
    Image.new(mode, (10, 10)).save(tmp_path / "small", "PNG")
    # The first preview imports the modules that all previews need.
    assert await Previews().make(tmp_path / "small", "image/png", tmp_path / "preview")
    forget_most_memory()
    before = memory("VmRSS")
    assert await Previews().make(tmp_path / "image", "image/png", tmp_path / "preview")
    assert memory("VmHWM") - before < 2.5 * 4 * side**2


def forget_most_memory() -> None:
    """Give back what is free, and count `VmHWM`, the most that this process takes, from now on."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> int:
    """Bytes that this process takes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1_024


async def test_a_broken_image_has_no_preview(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(png_that_claims(1_000, 1_000))
    assert not await Previews().make(tmp_path / "broken", "image/png", tmp_path / "preview")
    assert not (tmp_path / "preview").exists()


async def test_other_files_have_no_preview(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"\0\0\0\x20ftypisom")
    assert not await Previews().make(tmp_path / "film", "video/mp4", tmp_path / "preview")

"""Makes small previews of images, in a bounded number of threads and with bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

__all__ = ["PREVIEW_MEDIA_TYPE", "ImageTooLarge", "Previews"]

_log: Final = logging.getLogger("actorchat.blobs")

PREVIEW_MEDIA_TYPE: Final = "image/webp"

EDGE: Final = 480
"""Pixels of a preview's longer edge."""

MAX_PIXELS: Final = 268_435_456
"""An image with more pixels, by its header, is refused: a browser that shows it could run out of memory."""

DECODED_PIXELS: Final = 33_554_432
"""Pixels that are decoded for a preview: 128 MiB, and briefly twice as much. A larger image gets no preview."""

_MAX_FILE_BYTES: Final = 67_108_864
"""Some formats are read as a whole: a larger file has no preview."""

_HEAD_BYTES: Final = 1_048_576
"""How much of such a file is read to see how many pixels it has."""

_SHRUNK_FIRST: Final = frozenset({"RGB", "RGBA", "L", "LA"})
"""Kinds of pixels that can be mixed as they are. Others are converted before the image is made smaller."""

_THREADS: Final = 2
_QUALITY: Final = 80


class ImageTooLarge(Exception):  # noqa: N818 - a property of the image
    """The image has more pixels than may be shown. The text says how many."""


class Previews:
    """Makes previews, `threads` at a time."""

    def __init__(self, threads: int = _THREADS) -> None:
        self._threads = trio.CapacityLimiter(threads)

    async def make(self, path: Path, media_type: str, target: Path) -> bool:
        """Write a preview of the image at `path` to `target`. False: there is none for this file.

        Raises `ImageTooLarge` for an image with more than `MAX_PIXELS`, OSError if `target` can't be written. A
        cancelled call ends with its thread.
        """
        if media_type not in _OPENERS:
            return False
        call = partial(_make, path, _OPENERS[media_type], target)
        return await trio.to_thread.run_sync(call, limiter=self._threads, abandon_on_cancel=False)


def _make(path: Path, opener: Callable[[Path | BytesIO], ImageFile], target: Path) -> bool:
    try:
        whole = path.stat().st_size <= _MAX_FILE_BYTES
        # On opening, a decoder may read everything before the pixels, or even the whole file.
        with opener(path if whole else _head(path)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageTooLarge(f"the image has {width} x {height} pixels, at most {MAX_PIXELS} are allowed")
            if not whole:
                return False
            # Have a JPEG file decoded at a fraction of its size.
            image.draft("RGB", (2 * EDGE, 2 * EDGE))
            if image.width * image.height > DECODED_PIXELS:
                return False
            preview = _shrink(image)
    except ImageTooLarge:
        raise
    except Exception as error:
        # A decoder may raise anything when it reads an untrusted file. The file is kept, without a preview.
        _log.info("no preview of an image: %s: %s", type(error).__name__, error)
        return False
    with preview, target.open("wb") as file:
        preview.save(file, "WEBP", quality=_QUALITY)
    return True


def _head(path: Path) -> BytesIO:
    with path.open("rb") as file:
        return BytesIO(file.read(_HEAD_BYTES))


def _shrink(image: ImageFile) -> Image:
    from PIL import ImageOps

    # Work in place where possible: each copy of a large image takes as much memory as the image.
    image.load()
    # Apply the EXIF orientation, because the preview has no metadata.
    ImageOps.exif_transpose(image, in_place=True)
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    if image.mode in _SHRUNK_FIRST and "transparency" not in image.info:
        image.thumbnail((EDGE, EDGE))
    converted = image.convert("RGBA" if has_alpha else "RGB")
    converted.thumbnail((EDGE, EDGE))
    converted.info.clear()
    return converted


# Each function opens one format only. `Image.open` would try others, and apply a pixel limit that the whole process
# shares. Pillow is slow to import, so it is imported for the first preview.


def _open_png(source: Path | BytesIO) -> ImageFile:
    from PIL.PngImagePlugin import PngImageFile

    return PngImageFile(source)


def _open_jpeg(source: Path | BytesIO) -> ImageFile:
    from PIL.JpegImagePlugin import JpegImageFile

    return JpegImageFile(source)


def _open_gif(source: Path | BytesIO) -> ImageFile:
    from PIL.GifImagePlugin import GifImageFile

    return GifImageFile(source)


def _open_webp(source: Path | BytesIO) -> ImageFile:
    from PIL.WebPImagePlugin import WebPImageFile

    return WebPImageFile(source)


_OPENERS: Final[dict[str, Callable[[Path | BytesIO], ImageFile]]] = {
    "image/png": _open_png,
    "image/jpeg": _open_jpeg,
    "image/gif": _open_gif,
    "image/webp": _open_webp,
}

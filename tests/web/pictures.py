"""Pictures that tests and screenshots send."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFilter

__all__ = ["lamp"]


def lamp() -> bytes:
    """Return a JPEG of a lamp."""
    image = Image.new("RGB", (640, 480), "#a8957a")
    draw = ImageDraw.Draw(image)
    draw.rectangle((318, 200, 326, 480), fill="#7d6d59")
    draw.ellipse((230, 90, 410, 270), fill="#f6d58f")
    draw.ellipse((280, 140, 360, 220), fill="#fffbe9")
    data = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(2)).save(data, "JPEG")
    return data.getvalue()

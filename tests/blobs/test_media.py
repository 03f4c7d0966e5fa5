"""Which type is detected from the first bytes of a file."""

import pytest

from actorchat.blobs.media import sniff

CASES = {
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "image", "image/png", True),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "image", "image/jpeg", True),
    "gif": (b"GIF89a\1\0\1\0", "image", "image/gif", True),
    "gif and script": (b"GIF89a/*<script>alert(1)</script>*/", "image", "image/gif", True),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 ", "image", "image/webp", True),
    "avif": (b"\0\0\0\x20ftypavif\0\0\0\0", "image", "image/avif", True),
    "heic": (b"\0\0\0\x20ftypheic\0\0\0\0", "image", "image/heic", False),
    "heic from a burst": (b"\0\0\0\x20ftyphevc\0\0\0\0", "image", "image/heic-sequence", False),
    "heif sequence": (b"\0\0\0\x20ftypmsf1\0\0\0\0", "image", "image/heif-sequence", False),
    "bmp": (b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", "image", "image/bmp", False),
    "tiff": (b"II*\0\x08\0\0\0", "image", "image/tiff", False),
    "mp4": (b"\0\0\0\x20ftypisom\0\0\2\0", "video", "video/mp4", True),
    "mp4 of a camera": (b"\0\0\0\x1cftypXAVC\0\0\0\0XAVCmp42iso2", "video", "video/mp4", True),
    "3gp": (b"\0\0\0\x18ftyp3gp5\0\0\0\0isom3gp5", "video", "video/3gpp", False),
    "raw of a camera": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "image", "image/x-canon-cr3", False),
    "unknown brand": (b"\0\0\0\x18ftypzzzz\0\0\0\0zzzzyyyy", "file", "application/octet-stream", False),
    "brand behind the box": (b"\0\0\0\x10ftypzzzz\0\0\0\0isom", "file", "application/octet-stream", False),
    "quicktime": (b"\0\0\0\x14ftypqt  \0\0\0\0", "video", "video/quicktime", False),
    "webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\x82\x84webm", "video", "video/webm", True),
    "matroska": (b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\x82\x88matroska", "video", "video/x-matroska", False),
    "avi": (b"RIFF\x10\0\0\0AVI LIST", "video", "video/x-msvideo", False),
    "theora": (b"OggS\0\2" + b"\0" * 22 + b"\x80theora", "video", "video/ogg", True),
    "vorbis": (b"OggS\0\2" + b"\0" * 22 + b"\1vorbis", "audio", "audio/ogg", True),
    "mp3 with tags": (b"ID3\4\0\0", "audio", "audio/mpeg", True),
    "mp3": (b"\xff\xfb\x90\0", "audio", "audio/mpeg", True),
    "m4a": (b"\0\0\0\x20ftypM4A \0\0\0\0", "audio", "audio/mp4", True),
    "wav": (b"RIFF\x10\0\0\0WAVEfmt ", "audio", "audio/wav", True),
    "flac": (b"fLaC\0\0\0\x22", "audio", "audio/flac", True),
    "amr": (b"#!AMR\n", "audio", "audio/amr", False),
    "pdf": (b"%PDF-1.7\n", "file", "application/pdf", False),
    "zip": (b"PK\3\4\x14\0", "file", "application/zip", False),
    "html": (b"<!doctype html><script>", "file", "application/octet-stream", False),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">', "file", "application/octet-stream", False),
    "svg with a declaration": (b'<?xml version="1.0"?><svg>', "file", "application/octet-stream", False),
    "text": (b"BMW is a car maker", "file", "application/octet-stream", False),
    "text that begins like a program": (b"MZ is the mark of Mark Z.\n", "file", "application/octet-stream", False),
    "empty": (b"", "file", "application/octet-stream", False),
    "riff of another kind": (b"RIFF\x10\0\0\0ACON", "file", "application/octet-stream", False),
}


@pytest.mark.parametrize(("head", "kind", "media_type", "inline"), CASES.values(), ids=CASES)
def test_a_file_is_what_its_first_bytes_say(head: bytes, kind: str, media_type: str, inline: bool) -> None:
    media = sniff(head)
    assert (media.type, media.media_type, media.inline, media.executable) == (kind, media_type, inline, False)


@pytest.mark.parametrize(
    "head",
    [b"MZ\x90\0\3\0", b"\x7fELF\2\1", b"\xcf\xfa\xed\xfe\7\0", b"#!/bin/sh\n", b"L\0\0\0\1\x14\2\0"],
    ids=["windows", "linux", "macos", "script", "shortcut"],
)
def test_a_program_is_recognised_whatever_its_name(head: bytes) -> None:
    media = sniff(head)
    assert (media.type, media.executable, media.inline) == ("file", True, False)

"""Detects the type of a file from its first bytes, not from its name."""

from __future__ import annotations

from typing import Final

import attrs

from actorchat.chat.file_rules import PROGRAM
from actorchat.protocol import AttachmentType

__all__ = ["HEAD_BYTES", "Media", "is_inline", "sniff"]

HEAD_BYTES: Final = 4_096
"""How many bytes of a file `sniff` looks at."""


@attrs.frozen
class Media:
    """A kind of file. If `inline` is false, browsers download such a file instead of showing it."""

    type: AttachmentType
    media_type: str
    inline: bool = False

    @property
    def executable(self) -> bool:
        """Whether an operating system may run it."""
        return self.media_type == PROGRAM


_IMAGE, _VIDEO, _AUDIO, _FILE = AttachmentType

_UNKNOWN: Final = Media(_FILE, "application/octet-stream")
_PROGRAM: Final = Media(_FILE, PROGRAM)

_OFFICE: Final = Media(_FILE, "application/x-ole-storage")
_MP3: Final = Media(_AUDIO, "audio/mpeg", inline=True)
_TIFF: Final = Media(_IMAGE, "image/tiff")

_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", Media(_IMAGE, "image/png", inline=True)),
    (b"\xff\xd8\xff", Media(_IMAGE, "image/jpeg", inline=True)),
    (b"GIF87a", Media(_IMAGE, "image/gif", inline=True)),
    (b"GIF89a", Media(_IMAGE, "image/gif", inline=True)),
    (b"II*\x00", _TIFF),
    (b"MM\x00*", _TIFF),
    (b"%PDF-", Media(_FILE, "application/pdf")),
    (b"PK\x03\x04", Media(_FILE, "application/zip")),
    (b"PK\x05\x06", Media(_FILE, "application/zip")),
    (b"\x1f\x8b\x08", Media(_FILE, "application/gzip")),
    (b"BZh", Media(_FILE, "application/x-bzip2")),
    (b"\xfd7zXZ\x00", Media(_FILE, "application/x-xz")),
    (b"7z\xbc\xaf\x27\x1c", Media(_FILE, "application/x-7z-compressed")),
    (b"Rar!\x1a\x07", Media(_FILE, "application/vnd.rar")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _OFFICE),
    (b"OggS", Media(_AUDIO, "audio/ogg", inline=True)),
    (b"fLaC", Media(_AUDIO, "audio/flac", inline=True)),
    (b"ID3", _MP3),
    (b"#!AMR", Media(_AUDIO, "audio/amr")),
    (b"\xff\xf1", Media(_AUDIO, "audio/aac", inline=True)),
    (b"\xff\xf9", Media(_AUDIO, "audio/aac", inline=True)),
    (b"\xff\xfb", _MP3),
    (b"\xff\xf3", _MP3),
    (b"\xff\xf2", _MP3),
    (b"\x7fELF", _PROGRAM),
    (b"\xfe\xed\xfa\xce", _PROGRAM),
    (b"\xfe\xed\xfa\xcf", _PROGRAM),
    (b"\xce\xfa\xed\xfe", _PROGRAM),
    (b"\xcf\xfa\xed\xfe", _PROGRAM),
    (b"\xca\xfe\xba\xbe", _PROGRAM),
    (b"#!", _PROGRAM),
    # A Windows shortcut.
    (b"L\x00\x00\x00\x01\x14\x02\x00", _PROGRAM),
)

_RIFF: Final = {
    b"WEBP": Media(_IMAGE, "image/webp", inline=True),
    b"WAVE": Media(_AUDIO, "audio/wav", inline=True),
    b"AVI ": Media(_VIDEO, "video/x-msvideo"),
}

_MP4: Final = Media(_VIDEO, "video/mp4", inline=True)
_3GP: Final = Media(_VIDEO, "video/3gpp")

# Types by the brands in the first box of an ISO base media file.
_BRANDS: Final = {
    b"avif": Media(_IMAGE, "image/avif", inline=True),
    b"avis": Media(_IMAGE, "image/avif", inline=True),
    b"heic": Media(_IMAGE, "image/heic"),
    b"heix": Media(_IMAGE, "image/heic"),
    b"heim": Media(_IMAGE, "image/heic"),
    b"heis": Media(_IMAGE, "image/heic"),
    b"hevc": Media(_IMAGE, "image/heic-sequence"),
    b"hevx": Media(_IMAGE, "image/heic-sequence"),
    b"mif1": Media(_IMAGE, "image/heif"),
    b"msf1": Media(_IMAGE, "image/heif-sequence"),
    b"M4A ": Media(_AUDIO, "audio/mp4", inline=True),
    b"M4B ": Media(_AUDIO, "audio/mp4", inline=True),
    b"qt  ": Media(_VIDEO, "video/quicktime"),
    b"crx ": Media(_IMAGE, "image/x-canon-cr3"),
} | dict.fromkeys(
    (
        *(b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"iso7", b"iso8", b"iso9"),
        *(b"mp41", b"mp42", b"mp71", b"avc1", b"dash", b"cmfc", b"M4V ", b"M4VH", b"M4VP", b"f4v ", b"MSNV"),
    ),
    _MP4,
)
_WEBM: Final = Media(_VIDEO, "video/webm", inline=True)
_MATROSKA: Final = Media(_VIDEO, "video/x-matroska")
_OGG_VIDEO: Final = Media(_VIDEO, "video/ogg", inline=True)
_BITMAP: Final = Media(_IMAGE, "image/bmp")


_INLINE: Final = frozenset(
    media.media_type
    for media in (*(media for _, media in _SIGNATURES), *_RIFF.values(), *_BRANDS.values(), _MP4, _WEBM, _OGG_VIDEO)
    if media.inline
)


def is_inline(media_type: str) -> bool:
    """Whether browsers may show files of a type that `sniff` returned, instead of downloading them."""
    return media_type in _INLINE


def sniff(head: bytes) -> Media:
    """Return the kind of a file, judged by `head`, its first `HEAD_BYTES` bytes.

    Text has no signature, so text, HTML, SVG and scripts of browsers are unknown: `application/octet-stream`.
    """
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], _UNKNOWN)
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    # Text may begin with these two letters, but only a program has zeros in its header.
    if head[:2] == b"MZ" and b"\0" in head:
        return _PROGRAM
    if head[:4] == b"\x1aE\xdf\xa3":
        return _WEBM if b"webm" in head[:64] else _MATROSKA
    if head[:4] == b"OggS" and b"theora" in head[:64]:
        return _OGG_VIDEO
    # Texts may begin with these two letters, so check the size of the bitmap's header as well.
    if head[:2] == b"BM" and head[14:18] in (b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0"):
        return _BITMAP
    return next((media for signature, media in _SIGNATURES if head.startswith(signature)), _UNKNOWN)


def _iso_media(head: bytes) -> Media:
    """Return the kind of the major brand, else of the first known brand that the file is compatible with."""
    end = min(int.from_bytes(head[:4]), len(head))
    for start in (8, *range(16, end - 3, 4)):
        brand = head[start : start + 4]
        if brand[:2] == b"3g":
            return _3GP
        if (media := _BRANDS.get(brand)) is not None:
            return media
    return _UNKNOWN

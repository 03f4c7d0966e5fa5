"""Keeps the bytes of attachments: content types, names, previews, storage and signed links.

`BlobStore` is what a new kind of storage provides; `actorchat.testing.check_blob_store` is what it passes.
"""

from actorchat.blobs.local import LocalBlobs
from actorchat.blobs.ports import BlobEntry, BlobMissing, BlobStore, BlobsUnavailable

__all__ = ["BlobEntry", "BlobMissing", "BlobStore", "BlobsUnavailable", "LocalBlobs"]

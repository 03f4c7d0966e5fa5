"""Keeps the bytes of attachments: content types, names, previews, storage and signed links.

A new kind of storage implements `BlobStore` and passes `actorchat.testing.check_blob_store`.
"""

from actorchat.blobs.local import LocalBlobs
from actorchat.blobs.ports import (
    BlobEntry,
    BlobMissing,
    BlobsMisconfigured,
    BlobStore,
    BlobsUnavailable,
    blob_keys,
)

__all__ = ["BlobEntry", "BlobMissing", "BlobStore", "BlobsMisconfigured", "BlobsUnavailable", "LocalBlobs", "blob_keys"]

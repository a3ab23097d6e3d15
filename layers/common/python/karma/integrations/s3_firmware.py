"""Bytes of firmware releases in the bucket of files, one object a release.

firmware/<user id>/<release id>      written by one signed PUT of exactly the bytes that the manifest names
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

from karma.core import aws
from karma.core.ids import UserId
from karma.files.domain import URL_TIME
from karma.files.ports import ObjectGone
from karma.firmware.domain import Release, ReleaseId
from karma.firmware.ports import SignedUpload
from karma.integrations.s3 import remove_below, signed, storage_errors

_CHUNK_BYTES: Final = 1024 * 1024
_KEYS_A_CALL: Final = 1000
"""S3's limit on one list, and on one DeleteObjects."""


class S3Firmware:
    """Bytes of releases in one bucket."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def upload(self, release: Release) -> SignedUpload:
        """Sign a PUT of the bytes that the manifest names, for 15 minutes: S3 refuses another length or SHA-256."""
        checksum = base64.b64encode(bytes.fromhex(release.sha256)).decode()
        params: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": release_key(release.user_id, release.id),
            "ContentLength": release.size,
            "ChecksumSHA256": checksum,
        }
        return SignedUpload(signed("put_object", params, URL_TIME), {"x-amz-checksum-sha256": checksum})

    def digest(self, release: Release, *, at_most: int) -> tuple[int, str] | None:
        """Return size and SHA-256 of what was uploaded, reading `at_most` bytes and one; None: there is nothing."""
        try:
            with storage_errors(gone=ObjectGone):
                key = release_key(release.user_id, release.id)
                body = aws.client("s3").get_object(Bucket=self._bucket, Key=key)["Body"]
                size, digest = 0, hashlib.sha256()
                try:
                    for chunk in body.iter_chunks(_CHUNK_BYTES):
                        size += len(chunk)
                        if size > at_most:
                            break
                        digest.update(chunk)
                finally:
                    body.close()
        except ObjectGone:
            return None
        return size, digest.hexdigest()

    def remove(self, user_id: UserId, release_id: ReleaseId) -> None:
        """Remove the bytes of a release in all their versions; absent ones count as removed."""
        while remove_below(self._bucket, release_key(user_id, release_id), limit=_KEYS_A_CALL) == _KEYS_A_CALL:
            pass

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        """Remove up to `limit` objects of an account; return how many, fewer than `limit`: none is left."""
        return remove_below(self._bucket, release_key(user_id, ReleaseId("")), limit=min(limit, _KEYS_A_CALL))


def release_key(user_id: UserId, release_id: ReleaseId) -> str:
    """Return the key of a release's bytes."""
    return f"firmware/{user_id}/{release_id}"

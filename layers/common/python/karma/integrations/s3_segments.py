"""Segments of search in the bucket of files: `segments/<user id>/<segment id>`, each written once."""

from __future__ import annotations

from typing import Final

from karma.core import aws
from karma.core.ids import UserId
from karma.files.ports import ObjectGone
from karma.integrations.s3 import remove_below, storage_errors

_SEGMENTS: Final = "segments/"
_KEYS_A_CALL: Final = 1000
"""S3's limit on one list, and on one DeleteObjects."""


class S3Segments:
    """Segments in one bucket; see SegmentObjects."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def put(self, owner: UserId, segment_id: str, data: bytes) -> None:
        """See SegmentObjects."""
        with storage_errors():
            aws.client("s3").put_object(Bucket=self._bucket, Key=_key(owner, segment_id), Body=data)

    def read(self, owner: UserId, segment_id: str) -> bytes | None:
        """See SegmentObjects."""
        try:
            with storage_errors(gone=ObjectGone):
                return aws.client("s3").get_object(Bucket=self._bucket, Key=_key(owner, segment_id))["Body"].read()
        except ObjectGone:
            return None

    def remove_older(self, owner: UserId, segment_id: str) -> None:
        """See SegmentObjects; keys are listed in their order, so those before the segment come first."""
        below = _key(owner, "")
        with storage_errors():
            listed = aws.client("s3").list_object_versions(Bucket=self._bucket, Prefix=below, MaxKeys=_KEYS_A_CALL)
        found = [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]
        for each in sorted({each["Key"] for each in found}):
            if each < _key(owner, segment_id):
                remove_below(self._bucket, each, limit=_KEYS_A_CALL)

    def remove(self, owner: UserId, segment_id: str) -> None:
        """See SegmentObjects."""
        remove_below(self._bucket, _key(owner, segment_id), limit=_KEYS_A_CALL)

    def remove_all(self, owner: UserId, *, limit: int) -> int:
        """See SegmentObjects."""
        return remove_below(self._bucket, _key(owner, ""), limit=min(limit, _KEYS_A_CALL))


def _key(owner: UserId, segment_id: str) -> str:
    return f"{_SEGMENTS}{owner}/{segment_id}"

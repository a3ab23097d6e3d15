"""Previews in Amazon S3: `devices/<device id>/<file id>/previews/thumbnail` and `…/text`, below their file's key.

So whatever removes a file's objects by their prefix removes its previews, and the function that makes previews may
write `devices/*/*/previews/*` and nothing else.
"""

from __future__ import annotations

from karma.core import aws
from karma.core.ids import DeviceId, FileId
from karma.files.domain import URL_TIME
from karma.integrations.s3 import attachment, key_of, remove_below, signed, storage_errors


class S3Previews:
    """Previews in the bucket of files."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def put_thumbnail(self, device_id: DeviceId, file_id: FileId, picture: bytes) -> None:
        """Store a thumbnail."""
        self._put(_key(device_id, file_id, "thumbnail"), picture, "image/webp")

    def put_text(self, device_id: DeviceId, file_id: FileId, words: bytes) -> None:
        """Store a document's text."""
        self._put(_key(device_id, file_id, "text"), words, "text/plain; charset=utf-8")

    def thumbnail_url(self, device_id: DeviceId, file_id: FileId) -> str:
        """Sign a GET of a thumbnail for 15 minutes; it answers WebP, whatever was stored."""
        params = {"Bucket": self._bucket, "Key": _key(device_id, file_id, "thumbnail")}
        return signed("get_object", params | {"ResponseContentType": "image/webp"}, URL_TIME)

    def text_url(self, device_id: DeviceId, file_id: FileId, *, filename: str) -> str:
        """Sign a GET of a document's text as an attachment for 15 minutes."""
        params = {
            "Bucket": self._bucket,
            "Key": _key(device_id, file_id, "text"),
            "ResponseContentType": "text/plain; charset=utf-8",
            "ResponseContentDisposition": attachment(filename),
        }
        return signed("get_object", params, URL_TIME)

    def remove(self, device_id: DeviceId, file_id: FileId) -> None:
        """Remove a file's previews with their older versions."""
        remove_below(self._bucket, _key(device_id, file_id, ""), limit=1000)

    def _put(self, key: str, data: bytes, media_type: str) -> None:
        with storage_errors():
            aws.client("s3").put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=media_type)


def _key(device_id: DeviceId, file_id: FileId, name: str) -> str:
    return f"{key_of(device_id, file_id)}/previews/{name}"

"""Tables of exported telemetry and checkpoints of their workers, in the bucket of files, for a day.

exports/<user id>/<export id>/<id>     written by one PUT, or in parts

The bucket removes what is older than a day, and after two days the parts of an upload that nobody ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from karma.core import aws
from karma.core.ids import UserId
from karma.files.ports import ObjectGone, UploadGone
from karma.integrations.s3 import EXPORT_TIME, attachment, remove_below, signed, storage_errors
from karma.telemetry.exports.domain import StoredTablePart
from karma.telemetry.exports.ports import TableUploadGone
from karma.telemetry.tables import TableKind

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_EXPORTS: Final = "exports/"
_KEYS_A_CALL: Final = 1000
"""S3's limit on one list, and on one DeleteObjects."""


class S3ExportObjects:
    """Tables and checkpoints in one bucket; see ExportObjects."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def put(self, name: str, data: bytes, *, kind: TableKind | None = None) -> None:
        """See ExportObjects."""
        with storage_errors():
            aws.client("s3").put_object(Bucket=self._bucket, Key=_key(name), Body=data, **_media(kind))

    def read(self, name: str) -> bytes | None:
        """See ExportObjects."""
        try:
            with storage_errors(gone=ObjectGone):
                return aws.client("s3").get_object(Bucket=self._bucket, Key=_key(name))["Body"].read()
        except ObjectGone:
            return None

    def begin(self, name: str, kind: TableKind) -> str:
        """See ExportObjects."""
        with storage_errors():
            made = aws.client("s3").create_multipart_upload(Bucket=self._bucket, Key=_key(name), **_media(kind))
        return made["UploadId"]

    def put_part(self, name: str, upload_id: str, number: int, data: bytes) -> StoredTablePart:
        """See ExportObjects."""
        try:
            with storage_errors(gone=UploadGone):
                made = aws.client("s3").upload_part(
                    Bucket=self._bucket, Key=_key(name), UploadId=upload_id, PartNumber=number, Body=data
                )
        except UploadGone:
            raise TableUploadGone from None
        return StoredTablePart(number, made["ETag"], len(data))

    def complete(self, name: str, upload_id: str, parts: Sequence[StoredTablePart]) -> None:
        """See ExportObjects."""
        listed: list[CompletedPartTypeDef] = [{"PartNumber": part.number, "ETag": part.tag} for part in parts]
        try:
            with storage_errors(gone=UploadGone):
                aws.client("s3").complete_multipart_upload(
                    Bucket=self._bucket, Key=_key(name), UploadId=upload_id, MultipartUpload={"Parts": listed}
                )
        except UploadGone:
            raise TableUploadGone from None

    def abort(self, name: str, upload_id: str) -> None:
        """See ExportObjects."""
        try:
            with storage_errors(gone=UploadGone):
                aws.client("s3").abort_multipart_upload(Bucket=self._bucket, Key=_key(name), UploadId=upload_id)
        except UploadGone:
            return

    def link(self, name: str, *, filename: str, now: datetime) -> tuple[str, datetime]:
        """See ExportObjects."""
        params = {"Bucket": self._bucket, "Key": _key(name), "ResponseContentDisposition": attachment(filename)}
        return signed("get_object", params, EXPORT_TIME), now + EXPORT_TIME

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        """See ExportObjects; exported threads are among them."""
        return remove_below(self._bucket, f"{_EXPORTS}{user_id}/", limit=min(limit, _KEYS_A_CALL))


def _key(name: str) -> str:
    return f"{_EXPORTS}{name}"


def _media(kind: TableKind | None) -> Any:
    """Return how a table is to be served; clients undo its encoding."""
    if kind is None:
        return {}
    return {"ContentType": kind.media_type, **({"ContentEncoding": kind.encoding} if kind.encoding else {})}

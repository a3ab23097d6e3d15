"""Amazon S3: bytes of device files, presigned URLs, and the layout of our keys.

devices/<device id>/<file id>      one object a file, written once by an upload in parts; see also s3_previews.py
attachments/<user id>/<sha256>     media and long results of conversations, written once
firmware/<user id>/<release id>    releases of firmware: s3_firmware.py
exports/<user id>/<id>             exported threads (.json) and telemetry (s3_exports.py), removed after a day
archives/<days>/<device id>/<sha256>  raw telemetry of a day (karma.telemetry.archives), removed after as many days

The bucket keeps older versions, so objects are removed by version. Errors of AWS become:
Upstream
├─ FileStorageThrottled 503     asked to slow down
└─ FileStorageUnavailable 503   no answer, or an internal error there
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from karma.core import aws
from karma.core.errors import Upstream
from karma.core.faults import AWS_FAULTS, code_of, upstream_of
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.files.domain import URL_TIME
from karma.files.ports import ObjectGone, StoredPart, UploadGone

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, ObjectIdentifierTypeDef

_ABSENT: Final = frozenset({"NoSuchKey", "404"})
_CHUNK_BYTES: Final = 1024 * 1024
_KEYS_A_CALL: Final = 1000
"""S3's limit on one list, and on one DeleteObjects."""
LINK_TIME: Final = timedelta(hours=12)
"""Time for which a URL of an attachment is valid; it ends earlier with the session of the role that signed it."""

ARCHIVES: Final = "archives/"
EXPORT_TIME: Final = timedelta(hours=1)
"""Time for which a link to what was exported is valid."""


class FileStorageThrottled(Upstream):
    """S3 is throttling requests."""

    status = 503
    code = "FILE_STORAGE_THROTTLED"
    retry_after_s = 2


class FileStorageUnavailable(Upstream):
    """S3 did not answer, or failed."""

    status = 503
    code = "FILE_STORAGE_UNAVAILABLE"
    retry_after_s = 1


class S3Files:
    """Device files in one bucket."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def probe(self) -> None:
        """Check that the bucket exists; raises when it does not, or when S3 does not answer."""
        aws.client("s3").head_bucket(Bucket=self._bucket)

    def address(self, device_id: DeviceId, file_id: FileId) -> str:
        """Return `s3://<bucket>/<key>`."""
        return f"s3://{self._bucket}/{key_of(device_id, file_id)}"

    # Uploads

    def begin_upload(self, device_id: DeviceId, file_id: FileId, *, checksums: bool) -> str:
        """Begin a multipart upload and return its id.

        S3 accepts checksums of parts only when the upload was begun with them, and then demands one of every part.
        """
        algorithm: Any = {"ChecksumAlgorithm": "SHA256", "ChecksumType": "COMPOSITE"} if checksums else {}
        with storage_errors():
            made = aws.client("s3").create_multipart_upload(
                Bucket=self._bucket, Key=key_of(device_id, file_id), **algorithm
            )
        return made["UploadId"]

    def abort_upload(self, device_id: DeviceId, file_id: FileId, upload_id: str) -> None:
        """Delete an upload and its parts; an absent one counts as deleted."""
        _abort(self._bucket, key_of(device_id, file_id), upload_id)

    def part_url(
        self, device_id: DeviceId, file_id: FileId, upload_id: str, number: int, *, size: int, sha256: str | None
    ) -> str:
        """Sign a PUT of exactly `size` bytes; with `sha256` the client must send it as x-amz-checksum-sha256."""
        params: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": key_of(device_id, file_id),
            "UploadId": upload_id,
            "PartNumber": number,
            "ContentLength": size,
        }
        if sha256 is not None:
            params["ChecksumSHA256"] = sha256
        return self._signed("upload_part", params)

    def parts(self, device_id: DeviceId, file_id: FileId, upload_id: str) -> Sequence[StoredPart]:
        """Return the parts that have arrived, by number, in one call: files have fewer parts than a page.

        Raises:
            UploadGone: the upload was completed or aborted.
        """
        with storage_errors(gone=UploadGone):
            found = aws.client("s3").list_parts(
                Bucket=self._bucket, Key=key_of(device_id, file_id), UploadId=upload_id, MaxParts=_KEYS_A_CALL
            )
        return [
            StoredPart(part["PartNumber"], part["Size"], part["ETag"], part.get("ChecksumSHA256"))
            for part in found.get("Parts", [])
        ]

    def complete_upload(
        self, device_id: DeviceId, file_id: FileId, upload_id: str, parts: Sequence[StoredPart]
    ) -> None:
        """Make one object of the parts.

        Raises:
            UploadGone: the upload was completed or aborted.
        """
        listed: list[CompletedPartTypeDef] = [{"PartNumber": part.number, "ETag": part.tag} for part in parts]
        for entry, part in zip(listed, parts, strict=True):
            if part.sha256 is not None:
                entry["ChecksumSHA256"] = part.sha256
        with storage_errors(gone=UploadGone):
            aws.client("s3").complete_multipart_upload(
                Bucket=self._bucket,
                Key=key_of(device_id, file_id),
                UploadId=upload_id,
                MultipartUpload={"Parts": listed},
            )

    # Objects

    def exists(self, device_id: DeviceId, file_id: FileId) -> bool:
        """Tell whether the object exists."""
        try:
            with storage_errors(gone=ObjectGone):
                aws.client("s3").head_object(Bucket=self._bucket, Key=key_of(device_id, file_id))
        except ObjectGone:
            return False
        return True

    def read(self, device_id: DeviceId, file_id: FileId) -> Iterator[bytes]:
        """Stream an object's bytes.

        Raises:
            ObjectGone: the object does not exist.
        """
        with storage_errors(gone=ObjectGone):
            answer = aws.client("s3").get_object(Bucket=self._bucket, Key=key_of(device_id, file_id))
            body = answer["Body"]
            try:
                yield from body.iter_chunks(_CHUNK_BYTES)
            finally:
                body.close()

    def download_url(self, device_id: DeviceId, file_id: FileId, *, filename: str, mime_type: str) -> str:
        """Sign a GET that downloads the object as an attachment."""
        return self._signed(
            "get_object",
            {
                "Bucket": self._bucket,
                "Key": key_of(device_id, file_id),
                "ResponseContentDisposition": attachment(filename),
                "ResponseContentType": mime_type,
            },
        )

    def remove(self, device_id: DeviceId, file_id: FileId) -> None:
        """Remove an object, its older versions, and uploads to its key."""
        while remove_below(self._bucket, key_of(device_id, file_id), limit=_KEYS_A_CALL) == _KEYS_A_CALL:
            pass

    def remove_all(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` objects and uploads of a device; return how many, fewer than `limit`: none is left."""
        return remove_below(self._bucket, key_of(device_id, FileId("")), limit=min(limit, _KEYS_A_CALL))

    def _signed(self, operation: str, params: dict[str, Any]) -> str:
        return signed(operation, params, URL_TIME)


def signed(operation: str, params: dict[str, Any], lasting: timedelta) -> str:
    """Sign a URL by which whoever has it may do one thing for this time."""
    with storage_errors():
        return aws.client("s3").generate_presigned_url(operation, Params=params, ExpiresIn=int(lasting.total_seconds()))


def remove_below(bucket: str, prefix: str, *, limit: int) -> int:
    """Remove up to `limit` uploads and versions of objects below a prefix; return how many."""
    with storage_errors():
        client = aws.client("s3")
        # Uploads first: one that completes meanwhile is found as an object.
        uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix, MaxUploads=limit)
        found = [(upload["Key"], upload["UploadId"]) for upload in uploads.get("Uploads", [])]
        for key, upload_id in found:
            _abort(bucket, key, upload_id)
        if len(found) == limit:
            return limit
        left = limit - len(found)
        listed = client.list_object_versions(Bucket=bucket, Prefix=prefix, MaxKeys=left)
        versions: list[ObjectIdentifierTypeDef] = [
            {"Key": each["Key"], "VersionId": each["VersionId"]}
            for each in [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]
        ]
        if versions:
            done = client.delete_objects(Bucket=bucket, Delete={"Objects": versions, "Quiet": True})
            if done.get("Errors"):
                raise FileStorageUnavailable("The file storage did not remove everything; try again")
    return len(found) + len(versions)


def _abort(bucket: str, key: str, upload_id: str) -> None:
    try:
        with storage_errors(gone=UploadGone):
            aws.client("s3").abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    except UploadGone:
        return


class S3Attachments:
    """Attachments of conversations, in the same bucket; by content, so that equal bytes of a user are stored once."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def keep(self, user_id: UserId, data: bytes) -> str:
        """Store bytes and return their id."""
        attachment_id = hashlib.sha256(data).hexdigest()
        with storage_errors():
            aws.client("s3").put_object(Bucket=self._bucket, Key=_attachment_key(user_id, attachment_id), Body=data)
        return attachment_id

    def read(self, user_id: UserId, attachment_id: str) -> bytes | None:
        """Return stored bytes; None when this user has none of that id."""
        try:
            with storage_errors(gone=ObjectGone):
                found = aws.client("s3").get_object(Bucket=self._bucket, Key=_attachment_key(user_id, attachment_id))
                return found["Body"].read()
        except ObjectGone:
            return None

    def url(self, user_id: UserId, attachment_id: str, media_type: str) -> str:
        """Sign a GET of an attachment, with the media type that it was checked to have."""
        params = {"Bucket": self._bucket, "Key": _attachment_key(user_id, attachment_id)}
        return signed("get_object", params | {"ResponseContentType": media_type}, LINK_TIME)

    def remove(self, user_id: UserId, attachment_id: str) -> None:
        """Remove an attachment with its older versions; an absent one counts as removed."""
        key = _attachment_key(user_id, attachment_id)
        while remove_below(self._bucket, key, limit=_KEYS_A_CALL) == _KEYS_A_CALL:
            pass

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        """Remove up to `limit` of a user's attachments; return how many, fewer than `limit`: none is left."""
        return remove_below(self._bucket, _attachment_key(user_id, ""), limit=min(limit, _KEYS_A_CALL))


def _attachment_key(user_id: UserId, attachment_id: str) -> str:
    return f"attachments/{user_id}/{attachment_id}"


class S3Exports:
    """Exported threads in the same bucket, for a day; exports of telemetry are in s3_exports.py."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def keep(self, user_id: UserId, document: bytes, *, now: datetime) -> tuple[str, datetime]:
        """Store a JSON document, and return a link that downloads it and the end of the link."""
        key = f"exports/{user_id}/{new_id()}.json"
        with storage_errors():
            aws.client("s3").put_object(Bucket=self._bucket, Key=key, Body=document, ContentType="application/json")
        return self._link(key, "thread.json", now=now)

    def _link(self, key: str, filename: str, *, now: datetime) -> tuple[str, datetime]:
        params = {"Bucket": self._bucket, "Key": key, "ResponseContentDisposition": attachment(filename)}
        return signed("get_object", params, EXPORT_TIME), now + EXPORT_TIME


class S3Archives:
    """Archived days of raw telemetry in the same bucket; names are those of karma.telemetry.archiving."""

    def __init__(self, bucket: str, *, kept_days: Sequence[int] = ()) -> None:
        """Build it; `kept_days` are the numbers of days of plans, below which a device's objects are looked for."""
        self._bucket = bucket
        self._kept_days = kept_days

    def keep(self, name: str, data: bytes) -> None:
        """Store an object."""
        with storage_errors():
            aws.client("s3").put_object(Bucket=self._bucket, Key=f"{ARCHIVES}{name}", Body=data)

    def read(self, name: str, *, offset: int, size: int) -> bytes:
        """Read a part of an object; empty: it is gone."""
        part = f"bytes={offset}-{offset + size - 1}"
        try:
            with storage_errors(gone=ObjectGone):
                found = aws.client("s3").get_object(Bucket=self._bucket, Key=f"{ARCHIVES}{name}", Range=part)
                return found["Body"].read()
        except ObjectGone:
            return b""

    def remove(self, name: str) -> None:
        """Remove an object, whose bytes the bucket keeps as an older version for 30 days."""
        with storage_errors():
            aws.client("s3").delete_object(Bucket=self._bucket, Key=f"{ARCHIVES}{name}")

    def remove_all(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` objects of a device, older versions included; return how many, fewer: none is left."""
        removed = 0
        for days in self._kept_days:
            if removed < limit:
                prefix = f"{ARCHIVES}{days}/{device_id}/"
                removed += remove_below(self._bucket, prefix, limit=min(limit - removed, _KEYS_A_CALL))
        return removed


def attachment(filename: str) -> str:
    """Return the Content-Disposition of a download (RFC 6266): the name in UTF-8, and in ASCII for old clients."""
    plain = "".join(char if " " <= char <= "~" and char not in '"%;' else "_" for char in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def key_of(device_id: DeviceId, file_id: FileId) -> str:
    """Return the key of a file's object, and prefix of its previews' keys."""
    return f"devices/{device_id}/{file_id}"


@contextmanager
def storage_errors(*, gone: type[UploadGone] | type[ObjectGone] | None = None) -> Iterator[None]:
    """Raise what S3 answers as an error of ours; what is absent as `gone`."""
    try:
        yield
    except AWS_FAULTS as exc:
        code = code_of(exc)
        if gone is UploadGone and code == "NoSuchUpload":
            raise UploadGone from exc
        if gone is ObjectGone and code in _ABSENT:
            raise ObjectGone from exc
        public = upstream_of(
            exc, system="The file storage", busy=FileStorageThrottled, unavailable=FileStorageUnavailable
        )
        if public is None:
            raise
        raise public from exc

"""Files of a device by the API function, called in process, and by real HTTP to the store."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from karma.core.clock import SystemClock
from karma.core.ids import DeviceId, UserId
from karma.devices.lookup import DeviceLookup
from karma.devices.repository.devices import DeviceRepository
from karma.files.domain import PART_BYTES, ROOT
from karma.files.repository.files import FileRepository
from karma.files.uploads import NewFile, UploadService
from karma.integrations.s3 import S3Files
from tests.fakes.billing import MemoryQueue
from tests.integration.api.conftest import Answer, Api
from tests.support.devices import World
from tests.support.plans import allowance
from tests.support.stack import Stack


def put_device(stack: Stack, user_id: str) -> DeviceId:
    """Make an active device, with a fake for IoT."""
    return World(stack, user=UserId(user_id)).create().current.device.id


def unbalanced_bytes(stack: Stack) -> int:
    """Return how many bytes of plans are taken beyond those of files that exist or are being uploaded."""

    def items(table: str, kind: str) -> list[dict[str, Any]]:
        pages = stack.aws("dynamodb").get_paginator("scan").paginate(TableName=stack.tables[table], ConsistentRead=True)
        return [item for page in pages for item in page["Items"] if item.get("type") == {"S": kind}]

    taken = [int(each["value"]["N"]) for each in items("billing", "usage") if each["sk"]["S"] == "USAGE#storage"]
    there = [
        int(file["size"]["N"])
        for file in items("devices", "device_file")
        if file["status"]["S"] in ("uploading", "verifying", "ready")
    ]
    return sum(taken) - sum(there)


def sha256_base64(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@dataclass
class Files:
    """One device's files, as their owner sees them."""

    stack: Stack
    api: Api
    device_id: str
    consume: Callable[[], list[str]]

    def call(self, method: str, path: str = "", body: object = None, *, query: str = "", **headers: str) -> Answer:
        root = f"/api/v1/devices/{self.device_id}"
        whole = path if path.startswith("/directories") else f"/files{path}"
        return self.api.call(method, root + whole, body, query=query, **headers)

    def begin(self, data: bytes, **fields: Any) -> str:
        answer = self.call("POST", body={"name": "notes.txt", "path": "/", "size": len(data), **fields})
        assert answer.status == 201, answer.text
        return str(answer.data["file_id"])

    def send(self, file_id: str, data: bytes, *, checksums: bool = False) -> None:
        """Put every part to the URL that is given for it."""
        parts = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)] or [b""]
        body: dict[str, Any] = {"part_numbers": list(range(1, len(parts) + 1))}
        if checksums:
            body["checksums"] = {str(n): sha256_base64(part) for n, part in enumerate(parts, 1)}
        answer = self.call("POST", f"/{file_id}/parts", body)
        assert answer.status == 200, answer.text
        for part, target in zip(parts, answer.data["parts"], strict=True):
            assert target["size"] == len(part)
            stored = httpx.put(target["url"], content=part, headers=target["headers"], trust_env=False)
            assert stored.status_code == 200, stored.text

    def uploaded(self, data: bytes, *, checksums: bool = False, **fields: Any) -> str:
        """Upload as far as `verifying`."""
        file_id = self.begin(data, **fields)
        self.send(file_id, data, checksums=checksums)
        answer = self.call("POST", f"/{file_id}/complete")
        assert answer.status == 202, answer.text
        assert answer.data["file"]["status"] == "verifying"
        return file_id

    def ready(self, data: bytes = b"hello", **fields: Any) -> str:
        """Upload and let the consumer list it."""
        file_id = self.uploaded(data, **fields)
        assert self.consume() == []
        assert self.file(file_id)["status"] == "ready"
        return file_id

    def file(self, file_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/{file_id}").data["file"]
        return found

    def listed(self, query: str = "") -> list[str]:
        return [file["id"] for file in self.call("GET", query=query).data["files"]]

    def objects(self) -> list[str]:
        """Return the keys of all versions in the bucket, and of unfinished uploads."""
        s3 = self.stack.aws("s3")
        versions = s3.list_object_versions(Bucket=self.stack.bucket)
        uploads = s3.list_multipart_uploads(Bucket=self.stack.bucket)
        entries = [*versions.get("Versions", []), *versions.get("DeleteMarkers", []), *uploads.get("Uploads", [])]
        return [entry["Key"] for entry in entries]

    def rows(self) -> dict[str, str]:
        """Return the type of every item in the device's partition of files, by sort key; without a count of 0 names."""
        pages = self.stack.aws("dynamodb").get_paginator("scan").paginate(TableName=self.stack.tables["devices"])
        items = [item for page in pages for item in page["Items"] if item["pk"]["S"] == f"FILES#{self.device_id}"]
        return {item["sk"]["S"]: item["type"]["S"] for item in items if item.get("names") != {"N": "0"}}


def put_half(stack: Stack, user_id: UserId, name: str) -> DeviceId:
    """Begin the upload of a file of two parts in the root of a new device, and put the last part, of 5 bytes."""
    device_id, store = put_device(stack, user_id), S3Files(stack.bucket)
    devices = DeviceLookup(DeviceRepository())
    uploads = UploadService(FileRepository(), store, devices, MemoryQueue(), SystemClock())
    new = NewFile(name=name, path=ROOT, size=PART_BYTES + 5)
    file = uploads.create(user_id, device_id, new, allowance=allowance(user_id))
    (part,) = uploads.parts(user_id, device_id, file.id, [2], {})
    assert httpx.put(part.url, content=b"x" * part.size).status_code == 200
    return device_id

"""A service that takes and gives files of one device: it answers asks, and has a store that is called by HTTP."""

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from karma_device.asking import Asking
from karma_device.files import DeviceFiles

PART_BYTES = 64 * 1024


@dataclass
class Upload:
    """A file of the service."""

    id: str
    asked: Mapping[str, Any]
    status: str = "uploading"
    rejection: str | None = None
    parts: dict[int, bytes] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Return the number of its parts."""
        return max(1, -(-int(self.asked["size"]) // PART_BYTES))

    @property
    def data(self) -> bytes:
        """Return what has come."""
        return b"".join(self.parts[n] for n in sorted(self.parts))

    def view(self) -> dict[str, Any]:
        """Return it as the service shows it."""
        shown = {name: self.asked[name] for name in ("name", "path", "size", "category")}
        sha256 = self.asked["sha256"] if self.status == "ready" else None
        state = {"status": self.status, "rejection": self.rejection, "checksum_sha256": sha256, "is_directory": False}
        return {"id": self.id, **shown, **state}


class FileService(ThreadingHTTPServer):
    """Answers asks of one device as docs/mqtt.md says, and keeps what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Store)
        self._ids = itertools.count()
        self.asks: list[dict[str, Any]] = []
        self.uploads: dict[str, Upload] = {}
        self.by_ask: dict[str, Upload] = {}
        self.ready = True
        self.silent = 0
        """Asks that get no answer before others do."""
        self.busy = 0
        """Asks that are told to come again."""
        self.fails: list[int] = []
        """Answers to the next requests of the store, instead of what they ask."""
        self.puts: list[int] = []
        """Numbers of the parts that came."""
        self.ranges: list[str] = []
        self.links = 2
        self.hashed: hashlib._Hash | None = None
        """Hash of all parts that come, of a file that is too large to be kept; None: parts are kept."""
        self.asking = Asking("EOS-1", send=self._hear, wait_ready=lambda _: self.ready)

    @property
    def origin(self) -> str:
        """Return the URL of the store."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, folder: Path) -> DeviceFiles:
        """Return the device's side, as after a start."""
        self.asking = Asking("EOS-1", send=self._hear, wait_ready=lambda _: self.ready)
        return DeviceFiles(folder, self.asking, timeout_s=5.0)

    def keep(self, data: bytes, name: str = "limits.json", path: str = "/config") -> Upload:
        """Have a file ready."""
        sha256 = hashlib.sha256(data).hexdigest()
        asked = {"name": name, "path": path, "size": len(data), "sha256": sha256, "category": "config"}
        made = Upload(f"f{next(self._ids)}", asked)
        made.status, made.parts = "ready", {1: data}
        self.uploads[made.id] = made
        return made

    def _hear(self, topic: str, payload: bytes) -> None:
        assert topic == "file/karma/EOS-1/ask"  # noqa: S101
        ask = json.loads(payload)
        self.asks.append(ask)
        if self.silent:
            self.silent -= 1
            return
        answer = {"id": ask["id"], **self._answer(ask)}
        asking = self.asking
        threading.Thread(target=lambda: asking.receive(json.dumps(answer).encode()), daemon=True).start()

    def _answer(self, ask: dict[str, Any]) -> dict[str, Any]:
        if self.busy:
            self.busy -= 1
            return _refused("STORAGE_THROTTLED", retryable=True)
        match ask["op"]:
            case "upload":
                return self._begin(ask)
            case "list":
                at = int(ask.get("cursor") or 0)
                shown = list(self.uploads.values())[at : at + 2]
                more = at + 2 < len(self.uploads)
                return {
                    "status": "ok",
                    "files": [each.view() for each in shown],
                    "next_cursor": str(at + 2) if more else None,
                }
        named = [each for each in self.uploads.values() if _is_named(each, ask)]
        if not named:
            return _refused("NOT_FOUND")
        return self._of(named[0], ask)

    def _of(self, file: Upload, ask: dict[str, Any]) -> dict[str, Any]:
        match ask["op"]:
            case "parts":
                return (
                    self._parts(file, int(ask["limit"]))
                    if file.status == "uploading"
                    else _refused("INVALID_TRANSITION")
                )
            case "complete":
                if len(file.parts) < file.count:
                    return _refused("UPLOAD_INCOMPLETE")
                file.status = "verifying" if file.status == "uploading" else file.status
            case "show" if file.status == "verifying":
                found = self.hashed or hashlib.sha256(file.data)
                right = found.hexdigest() == file.asked["sha256"]
                file.status, file.rejection = ("ready", None) if right else ("rejected", "sha256_mismatch")
            case "download":
                return {"status": "ok", "file": file.view(), "url": f"{self.origin}/{file.id}/{len(self.asks)}"}
        return {"status": "ok", "file": file.view()}

    def _begin(self, ask: dict[str, Any]) -> dict[str, Any]:
        file = self.by_ask.get(ask["id"])
        if file is not None and file.id not in self.uploads:
            return _refused("GONE")
        if file is None:
            held = [each for each in self.uploads.values() if _is_named(each, ask) and each.status != "rejected"]
            if any(each.status != "uploading" for each in held):
                return _refused("ALREADY_EXISTS")
            for each in held:
                del self.uploads[each.id]
            file = Upload(f"f{next(self._ids)}", ask)
            self.by_ask[ask["id"]] = self.uploads[file.id] = file
        return self._parts(file, self.links)

    def _parts(self, file: Upload, most: int) -> dict[str, Any]:
        missing = [n for n in range(1, file.count + 1) if n not in file.parts]
        size = int(file.asked["size"])
        parts = [
            {
                "part_number": n,
                "size": min(PART_BYTES, size - (n - 1) * PART_BYTES),
                "url": f"{self.origin}/{file.id}/{n}",
                "headers": {},
            }
            for n in (missing[:most] if file.status == "uploading" else [])
        ]
        upload = {"part_size": PART_BYTES, "part_count": file.count}
        return {"status": "ok", "file": file.view(), "upload": upload, "parts": parts, "missing": len(missing)}


def _is_named(file: Upload, ask: Mapping[str, Any]) -> bool:
    if "file_id" in ask:
        return bool(file.id == ask["file_id"])
    return (file.asked["path"], file.asked["name"]) == (ask["path"], ask["name"])


def _refused(code: str, *, retryable: bool = False) -> dict[str, Any]:
    error = {"code": code, "message": code.lower(), "details": None, "retryable": retryable, "retry_after_s": 0}
    return {"status": "refused", "error": error}


class Store(BaseHTTPRequestHandler):
    """Takes parts and gives bytes."""

    server: FileService

    def do_PUT(self) -> None:
        """Take a part, whole, or refuse it."""
        _, file_id, number = self.path.split("/")
        left = int(self.headers["Content-Length"])
        if self.server.hashed is not None:
            while left:
                chunk = self.rfile.read(min(64 * 1024, left))
                self.server.hashed.update(chunk)
                left -= len(chunk)
        data = self.rfile.read(left)
        if self.server.fails:
            self.send_error(self.server.fails.pop(0))
            return
        self.server.puts.append(int(number))
        self.server.uploads[file_id].parts[int(number)] = data
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """Give the bytes, from where they are asked for."""
        self.server.ranges.append(self.headers.get("Range", ""))
        if self.server.fails:
            self.send_error(self.server.fails.pop(0))
            return
        data = self.server.uploads[self.path.split("/")[1]].data
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(match[1]) if match else 0
        self.send_response(206 if begin else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin:])

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def file_service() -> Iterator[FileService]:
    """Serve on a free port."""
    server = FileService()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.asking.close()
    server.shutdown()
    server.server_close()
    thread.join()

"""Sends files of this device to its owner's account, and fetches the device's own: asked by MQTT, carried by HTTPS.

    uploaded = device.files.upload("run.log", to="/logs", category="diagnosis")
    path = device.files.download(path="/config/limits.json", to="config")
    for each in device.files.list("/config"): ...

Calls wait, and may be made on any thread but the MQTT client's, such as that of a command's handler. The id of an
upload is on the disk before it is asked, so that the same call after a restart goes on with the same upload: the
service tells which parts are missing. One transfer goes on at a time, the next ones wait.
"""

import hashlib
import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self

from karma_device.asking import Asking
from karma_device.backoff import Backoff
from karma_device.errors import FileRefused, FileUnfinished
from karma_device.fetching import TIMEOUT_S, Fetch, write_safely
from karma_device.messages import Json
from karma_device.sources import name_of, opened

log = logging.getLogger(__name__)

_LINKS = 4
"""Links that are asked for at a time, of 8 MiB each: they end after 15 minutes."""
_KEPT_S = 3 * 24 * 3_600
"""Seconds after which a note or a part that nobody goes on with is removed: the service keeps an ask for 25 hours."""


@dataclass(frozen=True)
class OwnFile:
    """A file or directory of this device, as the service has it."""

    id: str
    name: str
    path: str
    """Path of the directory that holds it."""
    size: int
    sha256: str | None
    """In hexadecimal; None: not verified yet, or a directory."""
    status: str
    """`uploading`, `verifying`, `ready` or `rejected`."""
    rejection: str | None
    is_directory: bool
    category: str

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Read a file of an answer."""
        return cls(
            id=str(said["id"]),
            name=str(said["name"]),
            path=str(said["path"]),
            size=int(said["size"]),
            sha256=said.get("checksum_sha256"),
            status=str(said["status"]),
            rejection=said.get("rejection"),
            is_directory=bool(said.get("is_directory")),
            category=str(said.get("category", "")),
        )


class DeviceFiles:
    """Files of this device; `device.files` of a Device."""

    def __init__(self, folder: Path, asking: Asking, *, timeout_s: float = TIMEOUT_S) -> None:
        """Make it.

        Args:
            folder: Folder for the notes of uploads, on storage that survives a restart; made with the first upload.
            asking: Asks the service.
            timeout_s: Seconds without a byte after which an HTTPS connection counts as dead.
        """
        self._folder = folder
        self._asking = asking
        self._timeout_s = timeout_s
        self._one = threading.Lock()

    # Use cases

    def upload(
        self,
        source: str | Path,
        *,
        to: str = "/",
        name: str | None = None,
        category: str = "other",
        type: str | None = None,  # noqa: A002  its name in the protocol
        metadata: Mapping[str, Json] | None = None,
        within_s: float = 3_600.0,
    ) -> OwnFile:
        """Send a file, as long as it is now, and return it once the service has verified and listed it.

        Args:
            source: Path of the file on this device. What is appended meanwhile is not sent.
            to: Path of the directory of this device's files; made where it is missing.
            name: Name there; that of `source` when None. No other file there may have it.
            category: Word by which files are found.
            type: Kind of file; guessed by the service from the name when None.
            metadata: JSON object of at most 8 KB.
            within_s: Seconds for all of it. The next call with the same arguments goes on.

        A file of `/proc` or `/sys`, which says another size than it has, is copied first, up to 8 MiB.

        Raises:
            FileRefused: The service does not take it: ALREADY_EXISTS, QUOTA_EXCEEDED, SHA256_MISMATCH (it was changed
                while it was sent) and others of docs/mqtt.md. Or this device cannot send it: NOT_A_FILE (a pipe, a
                device), NAME (its name is no text in UTF-8, and `name` is None), CHANGED (it has become shorter).
            FileUnfinished: It took longer.
            OSError: The file cannot be read.
        """
        ends_at = time.monotonic() + within_s
        there = name_of(source, name)
        require_time = partial(self._asking.require_time, ends_at)
        with self._turn(ends_at), opened(source, self._folder, require_time=require_time) as found:
            asked: dict[str, Json] = {
                "name": there,
                "path": to,
                "size": found.size,
                "sha256": found.sha256,
                "category": category,
                "metadata": dict(metadata or {}),
            }
            if type is not None:
                asked["type"] = type
            note = self._note(asked)
            try:
                sent = self._carry(found.file, self._begin(asked, note, ends_at), ends_at)
            except FileRefused:
                note.unlink(missing_ok=True)
                raise
            note.unlink(missing_ok=True)
            return sent

    def download(self, file_id: str = "", *, path: str = "", to: str | Path = ".", within_s: float = 3_600.0) -> Path:
        """Fetch a file of this device, and return where it is, whole and verified; what stood there is replaced.

        Args:
            file_id: Id of the file; or
            path: its whole path, such as `/config/limits.json`.
            to: Path for it on this device, or a folder, in which it gets its own name.
            within_s: Seconds for all of it. The next call goes on behind what has come.

        Raises:
            FileRefused: There is no such file (NOT_FOUND), it is not ready or a directory (INVALID_TRANSITION), the
                disk is too full (DISK_FULL), or the bytes are not those of its hash (HASH).
            FileUnfinished: It took longer.
            OSError: It cannot be written.
        """
        ends_at = time.monotonic() + within_s
        directory, _, name = path.rpartition("/")
        which: dict[str, Json] = {"file_id": file_id} if file_id else {"path": directory or "/", "name": name}
        with self._turn(ends_at):
            answer = self._asking.ask("download", which, ends_at)
            found = OwnFile.of(answer["file"])
            target = Path(to) / _plain(found.name) if Path(to).is_dir() else Path(to)
            sha256 = str(found.sha256)
            part = target.with_name(f".karma-{sha256[:32]}.part")
            _forget_old(target.parent, ".karma-*")
            fetch = Fetch(
                part,
                target,
                size=found.size,
                sha256=sha256,
                timeout_s=self._timeout_s,
                refused=FileRefused,
                unfinished=FileUnfinished,
            )
            return fetch.fetch(
                str(answer["url"]),
                renew=lambda: str(self._asking.ask("download", {"file_id": found.id}, ends_at)["url"]),
                within_s=max(0.0, ends_at - time.monotonic()),
            )

    def list(self, path: str | None = None, *, within_s: float = 60.0) -> Iterator[OwnFile]:
        """List the directory at `path`, by name; None: all files of this device, newest first. Page by page.

        Raises:
            FileRefused: There is no such directory.
            FileUnfinished: It took longer than `within_s` for a page.
        """
        cursor: Json = None
        while True:
            asked: dict[str, Json] = {"cursor": cursor} if path is None else {"path": path, "cursor": cursor}
            answer = self._asking.ask("list", asked, time.monotonic() + within_s)
            yield from map(OwnFile.of, answer["files"])
            cursor = answer["next_cursor"]
            if cursor is None:
                return

    def show(self, file_id: str, *, within_s: float = 60.0) -> OwnFile:
        """Return a file in any state.

        Raises:
            FileRefused: There is no such file.
            FileUnfinished: It took longer.
        """
        return OwnFile.of(self._asking.ask("show", {"file_id": file_id}, time.monotonic() + within_s)["file"])

    # Uploads

    def _begin(self, asked: Mapping[str, Json], note: Path, ends_at: float) -> dict[str, Any]:
        """Begin an upload, or go on with the one of its note, unless that has come to nothing."""
        is_new, ask_id = self._ask_id(note)
        try:
            answer = self._asking.ask("upload", asked, ends_at, ask_id=ask_id)
        except FileRefused as exc:
            if is_new or exc.code != "GONE":
                raise
        else:
            if is_new or answer["file"]["status"] != "rejected":
                return answer
        # It was not gone on with for a day; another upload has taken its name since; or its owner has deleted it.
        note.unlink(missing_ok=True)
        return self._asking.ask("upload", asked, ends_at, ask_id=self._ask_id(note)[1])

    def _carry(self, file: BinaryIO, answer: dict[str, Any], ends_at: float) -> OwnFile:
        """Send what is missing until the service has the whole, and return what it says of it in the end."""
        backoff, found = Backoff(base_s=0.5, cap_s=30.0), OwnFile.of(answer["file"])
        while found.status == "uploading":
            parts, missing = answer["parts"], int(answer["missing"])
            sent = self._put_all(file, parts, int(answer["upload"]["part_size"]), ends_at)
            if sent:
                backoff.reset()
            if sent == missing:
                ended = self._complete(found.id, ends_at)
                if ended is not None:
                    found = ended
                    break
            if sent < len(parts):
                self._asking.pause(backoff.next_delay_s(), ends_at)
            # After a failure one by one, so that a bad line does not use up the hour's links.
            limit = _LINKS if sent == len(parts) else 1
            try:
                answer = self._asking.ask("parts", {"file_id": found.id, "limit": limit}, ends_at)
                found = OwnFile.of(answer["file"])
            except FileRefused as exc:
                if exc.code != "INVALID_TRANSITION":
                    raise
                # All has come, by an earlier call; or it is over.
                found = OwnFile.of(self._asking.ask("complete", {"file_id": found.id}, ends_at)["file"])
        backoff = Backoff(base_s=0.5, cap_s=10.0)
        while found.status == "verifying":
            self._asking.pause(backoff.next_delay_s(), ends_at)
            found = OwnFile.of(self._asking.ask("show", {"file_id": found.id}, ends_at)["file"])
        if found.status != "ready":
            code = str(found.rejection or found.status).upper()
            raise FileRefused(code, f"the service has not kept {found.name}: {found.rejection or found.status}")
        log.info("file.uploaded: %s to %s", found.name, found.path)
        return found

    def _complete(self, file_id: str, ends_at: float) -> OwnFile | None:
        """End an upload; None: parts are missing after all."""
        try:
            return OwnFile.of(self._asking.ask("complete", {"file_id": file_id}, ends_at)["file"])
        except FileRefused as exc:
            if exc.code != "UPLOAD_INCOMPLETE":
                raise
            return None

    def _put_all(self, file: BinaryIO, parts: Sequence[dict[str, Any]], part_size: int, ends_at: float) -> int:
        """Put parts until one fails, and return how many have arrived."""
        for sent, part in enumerate(parts):
            self._asking.require_time(ends_at)
            offset = (int(part["part_number"]) - 1) * part_size
            try:
                self._put(file, offset, part)
            except urllib.error.HTTPError as exc:
                exc.close()
                log.warning("file.part_refused: the service answers %d", exc.code)
                return sent
            except (OSError, http.client.HTTPException) as exc:
                log.warning("file.cut: part %s: %s", part["part_number"], exc)
                return sent
        return len(parts)

    def _put(self, file: BinaryIO, offset: int, part: dict[str, Any]) -> None:
        size = int(part["size"])
        headers = {
            **{str(name): str(value) for name, value in part["headers"].items()},
            "Content-Length": str(size),
            "Content-Type": "application/octet-stream",
        }
        body = _Slice(file, offset, size)
        request = urllib.request.Request(str(part["url"]), data=body, headers=headers, method="PUT")  # noqa: S310  links of the service
        with urllib.request.urlopen(request, timeout=self._timeout_s):  # noqa: S310  links of the service
            return

    def _note(self, asked: Mapping[str, Json]) -> Path:
        named = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return self._folder / f"{named}.json"

    def _ask_id(self, note: Path) -> tuple[bool, str]:
        """Return the id under which an upload is asked, and whether it is a new one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _forget_old(self._folder, "*")
        try:
            return False, str(json.loads(note.read_text())["ask"])
        except (OSError, ValueError, KeyError, TypeError):
            made = uuid.uuid4().hex
            write_safely(note, json.dumps({"ask": made}))
            return True, made

    # Turns

    def _turn(self, ends_at: float) -> "_Turn":
        if not self._one.acquire(timeout=max(0.0, self._asking.require_time(ends_at))):
            raise FileUnfinished("another transfer took all the time")
        return _Turn(self._one)


class _Turn:
    """The right to send or fetch a file, which one call has at a time."""

    def __init__(self, one: threading.Lock) -> None:
        self._one = one

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._one.release()


class _Slice:
    """A part of a file, read in small pieces as the HTTP client sends it."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file = file
        self._left = size
        file.seek(offset)

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes.

        Raises:
            FileRefused: CHANGED, the file has become shorter.
        """
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise FileRefused("CHANGED", "the file has become shorter while it was sent")
        self._left -= len(data)
        return data


def _plain(name: str) -> str:
    """Require that a name stays in its folder."""
    if name in ("", ".", "..") or Path(name).name != name:
        raise FileRefused("NAME", f"{name!r} is no name of a file here")
    return name


def _forget_old(folder: Path, pattern: str) -> None:
    """Remove notes and parts that nobody goes on with any more."""
    for path in folder.glob(pattern):
        if path.suffix in {".json", ".part", ".new"} and time.time() - path.stat().st_mtime > _KEPT_S:
            path.unlink(missing_ok=True)

"""Karma's own tool of files: waiting for one that is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from karma.core.clock import monotonic
from karma.core.records import Record
from karma.tools.domain import FILE
from karma.tools.failures import ToolFailed
from karma.tools.toolbox import Tool, ToolContext, WhenLost, described

if TYPE_CHECKING:
    from karma.core.ids import UserId
    from karma.files.awaiting import AwaitedFile
    from karma.identity.domain import Caller

MAX_WAIT_S = 120
_MARGIN_S = 15.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 2.0
_THREADS = 8


class Awaited(Protocol):
    """The part of karma.files.awaiting.AwaitedFiles that tools use; calls block."""

    def look(self, user_id: UserId, device_ref: str, file_ref: str) -> AwaitedFile:
        """Return a file in its current state."""
        ...


class WaitForFile(Record):
    """Arguments of waitForFile."""

    device_id: str = described("Id or serial number of the device", maxLength=64)
    file: str = described("Whole path of the file on the device, as in /logs/today.txt, or its id", maxLength=1300)
    wait_s: int = described("Seconds to wait at the most", default=60, minimum=1, maximum=MAX_WAIT_S)


class FileTools:
    """The tool over the service of karma.files, which is imported and built at the first call."""

    def __init__(self, awaited: Callable[[], Awaited], *, pause_s: float = _FIRST_PAUSE_S) -> None:
        """Build it; `pause_s` is the first pause between two looks, which grow longer."""
        self._awaited = awaited
        self._pause_s = pause_s
        # Their own threads, as those of device_tools.
        self._threads: ThreadPoolExecutor | None = None

    def tools(self) -> list[Tool]:
        """Return the tools."""
        return [
            Tool(
                name="waitForFile",
                description="Wait until a file of a device is uploaded and checked, as behind a command that makes the "
                "device send one; tell its size and type, or how far it is when the time is over.",
                parameters=WaitForFile,
                permission="file:read",
                when_lost=WhenLost.CALL_AGAIN,
                timeout_s=MAX_WAIT_S + _MARGIN_S,
                run=self.wait_for_file,
                look_again=self.file_by_now,
            )
        ]

    async def wait_for_file(self, asked: WaitForFile, context: ToolContext) -> object:
        """Wait until a file is ready, and show how much of it has arrived.

        Raises:
            NotFound: the caller has no such device, or it has no such file any more.
            ValidationFailed: the file is a directory, or not named as one can be.
            ToolFailed: it was rejected, or is not ready in time.
        """
        until, pause_s, ref = monotonic() + asked.wait_s, self._pause_s, asked.file
        while True:
            seen = await self._look(context.caller, asked.device_id, ref)
            context.known.update(_known(seen))
            context.show(FILE, _shown(seen))
            if seen.file is not None:
                ref = seen.file.id  # another one of that name, later, is not the one that is waited for
            left_s = until - monotonic()
            if seen.has_settled or left_s <= 0:
                return _result(seen, asked.wait_s)
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    async def file_by_now(self, known: Mapping[str, object], caller: Caller) -> object:
        """Return the state of a file that was on its way when its call ended; None: unchanged or unknown."""
        device_id, path, file_id = (known.get(name) for name in ("device_id", "path", "file_id"))
        if not isinstance(device_id, str) or not isinstance(path, str):
            return None
        seen = _known(await self._look(caller, device_id, file_id if isinstance(file_id, str) else path))
        return None if all(known.get(name) == value for name, value in seen.items()) else seen

    async def _look(self, caller: Caller, device: str, file: str) -> AwaitedFile:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="file-tool")
        look = self._awaited().look
        return await asyncio.get_running_loop().run_in_executor(self._threads, look, caller.user_id, device, file)


def _shown(seen: AwaitedFile) -> dict[str, object]:
    shown: dict[str, object] = {"deviceId": seen.device_id, "path": seen.path, "status": str(seen.status)}
    if seen.file is None:
        return shown
    return {**shown, "fileId": seen.file.id, "uploadedBytes": seen.arrived, "totalBytes": seen.file.size}


def _known(seen: AwaitedFile) -> dict[str, object]:
    known: dict[str, object] = {"device_id": seen.device_id, "path": seen.path, "status": str(seen.status)}
    if seen.file is None:
        return known
    return {**known, "file_id": seen.file.id, "uploaded_bytes": seen.arrived, "size": seen.file.size}


def _result(seen: AwaitedFile, wait_s: int) -> object:
    file = seen.file
    if file is None:
        raise ToolFailed(f"There is no file {seen.path} within {wait_s} s; its upload has not begun")
    if seen.status == "ready":
        return {**_known(seen), "type": file.type, "mime_type": file.mime_type, "sha256": file.sha256}
    if file.rejection is not None:
        raise ToolFailed(f"The file {seen.path} was rejected: {file.rejection}")
    raise ToolFailed(f"The file {seen.path} is not ready within {wait_s} s, and may still be")

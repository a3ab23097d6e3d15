"""Asking for previews of files that have just been listed; karma/files/previewing.py makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson

from karma.core.happenings import text_in
from karma.core.searchables import kind_of
from karma.core.streams import StreamRecord

if TYPE_CHECKING:
    from karma.files.ports import Queue


class PreviewRequests:
    """Asks for the previews of files that have just been listed, as the stream of their table tells."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Send a message for each file whose preview is pending; one that comes twice is made once.

        Raises:
            QueueUnavailable: the queue does not answer; all may be given again.
        """
        wanted = [record.change.new for record in records if record.change.new and _asks(record)]
        for image in wanted:
            self._queue.send(message_of(text_in(image, "device_id"), text_in(image, "file_id")))
        return len(wanted)


def _asks(record: StreamRecord) -> bool:
    old, new = record.change
    return (
        kind_of(record.change) == "device_file"
        and (new or {}).get("previews_pending", {}).get("BOOL") is True
        and (old or {}).get("previews_pending") is None
    )


def message_of(device_id: str, file_id: str) -> str:
    """Return the body of a message that names a file."""
    return orjson.dumps({"device_id": device_id, "file_id": file_id}).decode()

"""Making the preview of a file: asked for by the table's stream, done once, in a process that its file cannot escape.

    publish -> stream -> router -> queue -> PreviewMaker -> bounded child process

The entry says `pending` from the transaction that lists the file, so a stream that brings that change at least once is
all that is needed. Objects are written before the entry says that they are there; whoever wrote them and then finds no
entry any more removes them, also the next attempt after one that died. So a deleted file leaves nothing behind.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import IO

from karma.core.clock import Clock
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import InvalidTransition
from karma.core.ids import DeviceId, FileId, UserId
from karma.core.observability import count
from karma.files.domain import DeviceFile, FileStatus
from karma.files.entries import Entries
from karma.files.ports import ObjectGone, ObjectStore, PreviewStore, Renderer, Rendering
from karma.files.previews import (
    DOCUMENT,
    EXCERPT_CHARS,
    MAX_SOURCE_BYTES,
    Previews,
    PreviewStatus,
    Refusal,
    refused,
)
from karma.files.repository.files import FileRepository
from karma.files.repository.previews import PreviewRepository


class PreviewReader:
    """Gives an owner the URLs of what was made."""

    def __init__(self, entries: Entries, store: PreviewStore) -> None:
        self._entries = entries
        self._store = store

    def thumbnail_url(self, file: DeviceFile) -> str | None:
        """Sign a URL that shows the thumbnail of a listed file for 15 minutes; None: it has none."""
        if file.status is not FileStatus.READY or file.previews.thumbnail.status is not PreviewStatus.READY:
            return None
        return self._store.thumbnail_url(file.device_id, file.id)

    def text_url(self, user_id: UserId, device_id: str, file_id: str) -> str:
        """Sign a URL that downloads a document's text for 15 minutes.

        Raises:
            NotFound: the file does not exist or has another owner.
            InvalidTransition: the file is not ready, or its text is not, for the reason that its `text` tells.
        """
        file = self._entries.get(user_id, device_id, file_id)
        text = file.previews.text
        if file.status is not FileStatus.READY or text.status is not PreviewStatus.READY:
            raise InvalidTransition(f"The text of file {file_id} is {text.status}: {text.reason or file.status}")
        return self._store.text_url(file.device_id, file.id, filename=f"{file.name}.txt")


class PreviewMaker:
    """Makes previews, each once."""

    def __init__(
        self,
        files: FileRepository,
        previews: PreviewRepository,
        objects: ObjectStore,
        store: PreviewStore,
        renderer: Renderer,
        clock: Clock,
    ) -> None:
        self._files = files
        self._previews = previews
        self._objects = objects
        self._store = store
        self._renderer = renderer
        self._clock = clock

    def make(self, device_id: DeviceId, file_id: FileId) -> str:
        """Make what is pending of a file's preview, or say on its entry why there is none; return what was done.

        May be repeated, and may run beside itself: both make the same, and one of them is noted. Previews of a file
        that is gone are removed.

        Raises:
            Upstream: the store or the database did not answer.
        """
        file = self._files.find(device_id, file_id)
        if file is None or file.status is not FileStatus.READY:
            return self._removed(device_id, file_id)
        if not file.previews.is_pending:
            return "made before"
        made = self._made(file)
        try:
            self._previews.previewed(file, made, now=self._clock.now())
        except ConditionFailed:
            current = self._files.find(device_id, file_id)
            if current is None or current.status is not FileStatus.READY:
                return self._removed(device_id, file_id)
            return "made by another"
        for part in (made.thumbnail, made.text):
            if part.reason is not None:
                count("PreviewRefused", reason=part.reason)
        return f"thumbnail {made.thumbnail.status}"

    def _removed(self, device_id: DeviceId, file_id: FileId) -> str:
        self._store.remove(device_id, file_id)
        return "file gone"

    def _made(self, file: DeviceFile) -> Previews:
        if file.size > MAX_SOURCE_BYTES:
            return refused(file.previews, Refusal.TOO_MANY_BYTES)
        with tempfile.TemporaryFile() as source:
            try:
                for chunk in self._objects.read(file.device_id, file.id):
                    source.write(chunk)
            except ObjectGone:
                return refused(file.previews, Refusal.LOST)
            source.flush()
            return self._stored(file, self._rendered(file, source))

    def _rendered(self, file: DeviceFile, source: IO[bytes]) -> Rendering:
        return self._renderer.render(source, is_document=file.mime_type == DOCUMENT)

    def _stored(self, file: DeviceFile, rendering: Rendering) -> Previews:
        thumbnail, text, excerpt = rendering.thumbnail, rendering.text, ""
        if thumbnail.status is PreviewStatus.READY:
            self._store.put_thumbnail(file.device_id, file.id, rendering.picture)
        if file.previews.text.status is not PreviewStatus.PENDING:
            text = file.previews.text
        elif text.status is PreviewStatus.READY:
            self._store.put_text(file.device_id, file.id, rendering.words)
            excerpt = " ".join(rendering.words[: EXCERPT_CHARS * 4].decode(errors="ignore").split())[:EXCERPT_CHARS]
        return replace(file.previews, thumbnail=thumbnail, text=text, excerpt=excerpt)

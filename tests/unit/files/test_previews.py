"""Previews of files whose events come twice, late and in any order, and of files that change or go meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import IO, Any

import pytest

from karma.core.dynamo.items import Key
from karma.core.errors import InvalidTransition, NotFound
from karma.core.happenings import ItemChange
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.core.streams import StreamRecord
from karma.files.domain import DeviceFile, Digests, FileStatus
from karma.files.entries import Entries
from karma.files.media import mime_type_of
from karma.files.ports import Rendering
from karma.files.preview_requests import PreviewRequests
from karma.files.previewing import PreviewMaker, PreviewReader
from karma.files.previews import (
    NOTHING,
    DocumentText,
    PreviewStatus,
    Refusal,
    Thumbnail,
    expected_of,
    previews_of_json,
    previews_to_json,
    refused,
)
from karma.files.searchable import source
from karma.files.service import FileService
from karma.integrations.s3 import FileStorageUnavailable
from tests.fakes.devices import FakeClock
from tests.fakes.file_parts import MemoryPreviews, MemoryPreviewStore
from tests.fakes.files import MemoryDevices, MemoryFiles, MemoryStore
from tests.fakes.mail import MemoryQueue
from tests.support.rows import NOW

USER, DEVICE = UserId(new_id()), DeviceId(new_id())
READY = Thumbnail(status=PreviewStatus.READY, width=512, height=300)
TEXT = DocumentText(status=PreviewStatus.READY, pages=2, characters=11)


class Renderer:
    """Answers as it is told; `meanwhile` is what happens while it works."""

    def __init__(self) -> None:
        self.answer = Rendering(thumbnail=READY, picture=b"RIFF", text=TEXT, words=b"hello world")
        self.meanwhile: Callable[[], object] = lambda: None
        self.seen: list[tuple[bytes, bool]] = []

    def render(self, source: IO[bytes], *, is_document: bool) -> Rendering:
        source.seek(0)
        self.seen.append((source.read(), is_document))
        self.meanwhile()
        return self.answer


class World:
    """A device with files, and all that makes previews of them."""

    def __init__(self) -> None:
        devices, clock = MemoryDevices({DEVICE: USER}), FakeClock(NOW)
        self.files, self.objects, self.store = MemoryFiles(devices), MemoryStore(), MemoryPreviewStore()
        self.renderer = Renderer()
        previews = MemoryPreviews(self.files)
        self.maker = PreviewMaker(self.files, previews, self.objects, self.store, self.renderer, clock)
        self.reader = PreviewReader(Entries(self.files, devices, clock), self.store)
        self.service = FileService(self.files, self.objects, devices, clock)

    def listed(self, mime_type: str = "image/png", *, data: bytes = b"bytes", name: str = "a.png") -> DeviceFile:
        file = DeviceFile(
            id=FileId(new_id()),
            device_id=DEVICE,
            user_id=USER,
            name=name,
            path="/",
            type="image",
            category="media",
            size=len(data),
            status=FileStatus.UPLOADING,
            created_at="2026-01-01T00:00:00Z",
            modified_at="2026-01-01T00:00:00Z",
        )
        self.files.add(file, reservation=None, directories=(), due=NOW)
        verifying = self.files.completed(file, now=NOW, due=NOW)
        self.files.publish(verifying, Digests(len(data), "s", "m", mime_type), now=NOW)
        self.objects.objects[DEVICE, file.id] = data
        return self.now(file)

    def now(self, file: DeviceFile) -> DeviceFile:
        found = self.files.find(DEVICE, file.id)
        assert found is not None
        return found

    def delete(self, file: DeviceFile) -> None:
        self.service.delete(USER, DEVICE, file.id)
        # As S3 does, where previews are below their file's key.
        self.store.remove(DEVICE, file.id)


@pytest.fixture
def world() -> World:
    return World()


class TestAPreview:
    def test_is_pending_from_the_moment_that_the_file_is_listed(self, world: World) -> None:
        file = world.listed()
        assert file.previews == expected_of("image/png")
        assert world.reader.thumbnail_url(file) is None

    def test_is_made_once_however_often_it_is_asked_for(self, world: World) -> None:
        file = world.listed()
        assert [world.maker.make(DEVICE, file.id) for _ in "123"] == ["thumbnail ready", "made before", "made before"]
        assert len(world.renderer.seen) == 1
        made = world.now(file)
        assert made.previews.thumbnail == READY
        assert made.previews.text == NOTHING.text
        assert made.revision == file.revision
        assert world.store.objects == {(file.id, "thumbnail"): b"RIFF"}
        assert world.reader.thumbnail_url(made) == f"memory://{DEVICE}/{file.id}/thumbnail"

    def test_of_a_document_has_its_text_and_the_beginning_for_search(self, world: World) -> None:
        file = world.listed("application/pdf", name="manual.pdf")
        world.renderer.answer = replace(world.renderer.answer, words="Größe \n".encode() * 100)
        world.maker.make(DEVICE, file.id)
        assert world.renderer.seen == [(b"bytes", True)]
        assert world.now(file).previews.text == TEXT
        assert world.now(file).previews.excerpt == ("Größe " * 20)[:120]
        assert world.reader.text_url(USER, DEVICE, file.id).endswith("filename=manual.pdf.txt")

    def test_of_two_that_work_at_once_is_that_of_one(self, world: World) -> None:
        file = world.listed()

        def another() -> None:
            world.renderer.meanwhile = lambda: None
            assert world.maker.make(DEVICE, file.id) == "thumbnail ready"

        world.renderer.meanwhile = another
        assert world.maker.make(DEVICE, file.id) == "made by another"
        assert world.now(file).previews.thumbnail == READY
        assert world.store.objects == {(file.id, "thumbnail"): b"RIFF"}

    @pytest.mark.parametrize("mime_type", ["text/plain", "application/zip", "application/octet-stream"])
    def test_is_not_made_of_other_kinds(self, world: World, mime_type: str) -> None:
        file = world.listed(mime_type)
        assert world.maker.make(DEVICE, file.id) == "made before"
        assert (world.now(file).previews, world.renderer.seen) == (NOTHING, [])

    @pytest.mark.parametrize("mime_type", ["image/svg+xml", "image/tiff", "image/heic", "image/bmp"])
    def test_is_refused_at_once_for_pictures_that_are_not_opened(self, world: World, mime_type: str) -> None:
        thumbnail = world.listed(mime_type).previews.thumbnail
        assert thumbnail == Thumbnail(status=PreviewStatus.REFUSED, reason=Refusal.UNSUPPORTED)

    def test_svg_is_known_as_what_it_is(self) -> None:
        assert mime_type_of(b"<svg onload='x'/>", "svg") == "image/svg+xml"
        assert expected_of(mime_type_of(b"<svg onload='x'/>", "png")) == NOTHING


class TestAFileThat:
    def test_is_refused_stays_ready_and_says_why(self, world: World) -> None:
        file = world.listed("application/pdf")
        killed = Thumbnail(status=PreviewStatus.REFUSED, reason=Refusal.PARSER_KILLED)
        silent = DocumentText(status=PreviewStatus.REFUSED, reason=Refusal.NO_TEXT)
        world.renderer.answer = Rendering(thumbnail=killed, text=silent)
        assert world.maker.make(DEVICE, file.id) == "thumbnail refused"
        now = world.now(file)
        assert (now.status, now.previews.thumbnail, now.previews.text) == (FileStatus.READY, killed, silent)
        assert world.store.objects == {}
        with pytest.raises(InvalidTransition, match="no_text"):
            world.reader.text_url(USER, DEVICE, file.id)

    def test_is_too_large_is_not_even_read(self, world: World) -> None:
        file = world.listed("application/pdf")
        world.files.entries[file.id] = replace(file, size=201 * 1024**2)
        world.objects.down = True
        world.maker.make(DEVICE, file.id)
        assert world.now(file).previews == refused(file.previews, Refusal.TOO_MANY_BYTES)

    def test_has_lost_its_object_says_so(self, world: World) -> None:
        file = world.listed()
        world.objects.objects.clear()
        world.maker.make(DEVICE, file.id)
        assert world.now(file).previews.thumbnail.reason is Refusal.LOST

    def test_is_deleted_meanwhile_leaves_no_preview(self, world: World) -> None:
        file = world.listed()
        world.renderer.meanwhile = lambda: world.delete(file)
        assert world.maker.make(DEVICE, file.id) == "file gone"
        assert world.store.objects == {}

    def test_is_replaced_meanwhile_gives_its_preview_to_nobody(self, world: World) -> None:
        file = world.listed()
        followers: list[DeviceFile] = []

        def replaced() -> None:
            world.delete(file)
            followers.append(world.listed(data=b"other"))

        world.renderer.meanwhile = replaced
        assert world.maker.make(DEVICE, file.id) == "file gone"
        assert world.now(followers[0]).previews == expected_of("image/png")
        assert world.store.objects == {}

    def test_was_deleted_before_a_worker_died_leaves_no_preview(self, world: World) -> None:
        file = world.listed()
        world.delete(file)
        # A worker had stored it before it died.
        world.store.put_thumbnail(DEVICE, file.id, b"RIFF")
        assert world.maker.make(DEVICE, file.id) == "file gone"
        assert world.store.objects == {}

    def test_is_renamed_meanwhile_has_it_under_its_new_name(self, world: World) -> None:
        file = world.listed()
        world.renderer.meanwhile = lambda: world.service.change(USER, DEVICE, file.id, {"name": "b.png"}, version=None)
        assert world.maker.make(DEVICE, file.id) == "thumbnail ready"
        now = world.now(file)
        assert (now.name, now.previews.thumbnail, now.revision) == ("b.png", READY, 2)

    def test_cannot_be_read_now_is_tried_again(self, world: World) -> None:
        file = world.listed()
        world.objects.down = True
        with pytest.raises(FileStorageUnavailable):
            world.maker.make(DEVICE, file.id)
        assert world.now(file).previews.is_pending

    def test_is_somebody_elses_has_no_text(self, world: World) -> None:
        file = world.listed("application/pdf")
        world.maker.make(DEVICE, file.id)
        with pytest.raises(NotFound):
            world.reader.text_url(UserId(new_id()), DEVICE, file.id)


def change(old: dict[str, Any] | None, new: dict[str, Any] | None) -> StreamRecord:
    return StreamRecord(Key("FILES#d", "FILE#f"), ItemChange(old, new), "1")


def image(**fields: object) -> dict[str, Any]:
    texts = {"type": "device_file", "sk": "FILE#f", "device_id": DEVICE, "file_id": "f", "user_id": USER, "name": "a"}
    return {name: {"S": value} for name, value in texts.items()} | {
        name: {"BOOL": value} if isinstance(value, bool) else {"S": value} for name, value in fields.items()
    }


class TestTheStream:
    def test_asks_for_what_has_become_pending(self) -> None:
        queue, pending = MemoryQueue(), image(previews_pending=True)
        taken = PreviewRequests(queue).take(
            [
                change(None, pending),
                change(pending, image(previews_pending=True, name="b")),
                change(pending, image()),
                change(pending, None),
                change(None, image()),
                change(None, image(previews_pending=True) | {"type": {"S": "device"}}),
            ]
        )
        assert taken == 1
        assert len(queue.bodies) == 1

    def test_brings_the_beginning_of_the_text_into_search(self) -> None:
        [row] = source().rows(ItemChange(None, image(path="/docs", mime_type="application/pdf", excerpt="Wiring plan")))
        assert row.text is not None
        assert row.text.text == "/docs application/pdf Wiring plan"


def test_previews_are_stored_and_read_as_they_are() -> None:
    for previews in (
        expected_of("application/pdf"),
        expected_of("image/svg+xml"),
        replace(expected_of("application/pdf"), thumbnail=READY, text=replace(TEXT, is_truncated=True)),
        refused(expected_of("application/pdf"), Refusal.ENCRYPTED),
        NOTHING,
    ):
        assert previews_of_json(previews_to_json(previews), "") == previews
    assert previews_of_json(None, "") == NOTHING

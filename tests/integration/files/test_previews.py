"""Previews as an owner sees them: beside the file, by URLs that need no token, gone with the file."""

from __future__ import annotations

import io
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from tests.integration.background.test_files import keys
from tests.support.files import Files
from tests.support.odd_files import document, picture, saved, words
from tests.support.stack import Context, SqsEvent, Stack


@pytest.fixture
def preview(stack: Stack, files: Files, sqs_event: SqsEvent, lambda_context: Context) -> Callable[[str], None]:
    import previews.handler  # noqa: F401  before use(): it clears what the module keeps

    def run(file_id: str) -> None:
        from previews.handler import lambda_handler

        stack.use("previews")
        event = sqs_event([{"device_id": files.device_id, "file_id": file_id}])
        assert lambda_handler(event, lambda_context) == {"batchItemFailures": []}
        stack.use("api")

    return run


@pytest.mark.req("R-K-14", "R-K-15")
def test_a_picture_shows_its_thumbnail_when_it_is_made(files: Files, preview: Callable[[str], None]) -> None:
    file_id = files.ready(saved(picture((800, 600)), "JPEG"), name="site.jpg")
    waiting = files.call("GET", f"/{file_id}").data["file"]
    assert (waiting["thumbnail"]["status"], waiting["thumbnail_url"]) == ("pending", None)

    preview(file_id)

    [shown] = files.call("GET").data["files"]
    assert shown["thumbnail"] == {"status": "ready", "reason": None, "width": 512, "height": 384}
    assert shown["version"] == waiting["version"]
    answer = httpx.get(shown["thumbnail_url"], trust_env=False)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(answer.content)).size == (512, 384)


def test_a_document_gives_its_text_as_a_download(files: Files, preview: Callable[[str], None]) -> None:
    file_id = files.ready(document(words(b"Wiring plan")), name="plan.pdf")
    assert files.call("GET", f"/{file_id}/text").status == 409

    preview(file_id)

    shown = files.call("GET", f"/{file_id}").data["file"]
    assert shown["text"] == {"status": "ready", "reason": None, "pages": 1, "characters": 11, "is_truncated": False}
    answer = httpx.get(files.call("GET", f"/{file_id}/text").data["url"], trust_env=False)
    assert (answer.text, answer.headers["content-type"]) == ("Wiring plan", "text/plain; charset=utf-8")
    assert answer.headers["content-disposition"].startswith("attachment; ")


def test_a_file_without_text_says_why(files: Files, preview: Callable[[str], None]) -> None:
    file_id = files.ready(document(b"0 0 m 9 9 l S"), name="scan.pdf")
    preview(file_id)
    refused = files.call("GET", f"/{file_id}/text")
    assert refused.status == 409
    assert "no_text" in refused.text


def test_nothing_is_left_of_a_deleted_file(stack: Stack, files: Files, preview: Callable[[str], None]) -> None:
    file_id = files.ready(document(words(b"Wiring plan")), name="plan.pdf")
    preview(file_id)
    assert len(keys(stack)) == 3
    assert files.call("DELETE", f"/{file_id}").status == 204
    assert keys(stack) == []

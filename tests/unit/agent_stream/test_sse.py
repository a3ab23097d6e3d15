"""Server-sent events: what a stream writes, when it writes it, and how it ends when its client does not read."""

import asyncio
from typing import Any

import pytest

from agent_stream import sse
from agent_stream.sse import SseWriter, wants_done, wants_page


def respond(work: Any, **more: Any) -> tuple[SseWriter, list[bytes]]:
    sent: list[bytes] = []

    async def go() -> SseWriter:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                sent.append(message["body"])

        writer = SseWriter(send, **more)
        await asyncio.wait_for(asyncio.gather(writer.respond(), work(writer, sent)), 10)
        return writer

    return asyncio.run(go()), sent


def test_a_silent_stream_says_that_it_lives() -> None:
    async def wait_for_two(writer: SseWriter, sent: list[bytes]) -> None:
        while b"".join(sent).count(b": keep-alive\n\n") < 2:  # noqa: ASYNC110  within the deadline of `respond`
            await asyncio.sleep(0)
        writer.end()

    _, sent = respond(wait_for_two, keep_alive_s=0.01)

    assert set(sent) == {b": keep-alive\n\n", b""}


def test_frames_that_wait_are_sent_together() -> None:
    async def write(writer: SseWriter, _: list[bytes]) -> None:
        writer.write(b"a")
        writer.write(b"b")
        writer.end()

    _, sent = respond(write, done=True)

    assert sent == [b"ab", b"data: [DONE]\n\n"]


def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_UNREAD_BYTES", 10)

    async def flood(writer: SseWriter, _: list[bytes]) -> None:
        writer.write(b"x" * 11)
        writer.write(b"y")

    writer, sent = respond(flood)

    assert writer.is_lost
    assert sent == [b""]


def test_a_client_that_left_harms_nobody() -> None:
    async def go() -> SseWriter:
        async def send(_: Any) -> None:
            raise OSError("gone")

        writer = SseWriter(send)
        await writer.respond()
        writer.write(b"late")
        return writer

    assert asyncio.run(go()).is_lost


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/event-stream", False),
        ("text/event-stream;done=1", True),
        ("application/json, Text/Event-Stream; q=1; done=1", True),
        ("application/json;done=1", False),
        ("text/event-stream;done=1;q=0", False),
        ("", False),
        (";;,", False),
    ],
)
def test_done_is_asked_for_by_name(accept: str, expected: bool) -> None:
    assert wants_done(accept) is expected


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        ("application/json", True),
        ("Application/JSON;q=0.9, text/html", True),
        ("application/json, text/event-stream", False),
        ("application/json;q=0", False),
        ("application/json; q=0.000, */*", False),
        ("application/json;q=0.001", True),
        ("application/json, text/event-stream;q=0.0", True),
        ("text/event-stream", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_a_page_is_for_those_who_ask_for_json_alone(accept: str, page: bool) -> None:
    assert wants_page(accept) is page

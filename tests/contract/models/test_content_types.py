"""An answer of Chat Completions is read as what its bytes are, whatever its server calls them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed, StopReason, TextDelta, TurnEnded
from tests.support.chat_calls import USAGE, ask, keyed_server
from tests.support.chat_stream import chunks
from tests.support.faulty_server import END, FaultyServer, stream

pytestmark = pytest.mark.fault("F-33d")

KINDS = ("text/event-stream", "application/json; charset=utf-8", "text/plain", "application/x-ndjson", "")
MESSAGE = {"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
WHOLE = json.dumps({"choices": [MESSAGE], "usage": USAGE}, indent=1).encode()
FORMS = {
    "stream": chunks("Hel", "lo", usage=USAGE),
    "object": [WHOLE],
    "object in pieces": [b"\n", WHOLE[:3], WHOLE[3:]],
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with keyed_server(monkeypatch) as running:
        yield running


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_same_under_each_content_type(server: FaultyServer, form: str, kind: str) -> None:
    server.next(stream(*FORMS[form], end=END, headers={"content-type": kind}))

    *events, end = ask(server)

    assert "".join(each.text for each in events if isinstance(each, TextDelta)) == "Hello"
    assert isinstance(end, TurnEnded)
    assert (end.stop, end.usage) == (StopReason.END, Usage(120, 7, 100))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_neither_is_no_answer(server: FaultyServer, kind: str) -> None:
    for body in (
        b"<html>log in</html>",
        b"",
        b" \n",
        b"[1]",
        b'{"choices":',
        b'{"choices": [{"message": {"content": 5}}]}',
    ):
        server.next(stream(body or b"\n", headers={"content-type": kind}))
        with pytest.raises(ModelFailed) as caught:
            ask(server)
        assert caught.value.code is ModelErrorCode.MODEL_STREAM_CUT


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_one_object_is_told_by_its_code(server: FaultyServer, kind: str) -> None:
    server.next(stream(b'{"error": {"code": 429, "message": "slow"}}', headers={"content-type": kind}))

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert caught.value.code is ModelErrorCode.MODEL_RATE_LIMITED

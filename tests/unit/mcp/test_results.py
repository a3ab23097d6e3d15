"""Results of calls with structured content: what a server says beside it is told to the model, repetitions are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from karma.integrations.mcp_messages import to_model

pytestmark = pytest.mark.fault("F-29p")
READY = {"status": "ready", "hit_count": 6}
IMAGE = {"type": "image", "mimeType": "image/png", "data": "AAAA"}
SHOWN = {"type": "image", "mimeType": "image/png", "left_out": "4 characters in Base64"}


def told(structured: Any, *contents: Any, **more: Any) -> object:
    blocks = [{"type": "text", "text": each} if isinstance(each, str) else each for each in contents]
    return to_model({"content": blocks, "structuredContent": structured, **more})


@pytest.mark.parametrize(
    ("structured", "texts"),
    [
        (READY, [json.dumps(READY)]),
        (READY, [json.dumps(READY, indent=2) + "\n"]),
        (READY, ['{"hit_count": 6.0, "status": "ready"}']),
        (READY, []),
        (READY, ["", " \n"]),
        ({"result": "sunny"}, ["sunny"]),
        ({"result": 21}, ["21"]),
        ({"result": ["a", {"b": 1}, 3]}, ["a", '{"b":1}', "3"]),
        ([1, 2], ["[1,2]"]),
    ],
)
def test_a_text_that_repeats_it_is_not_told_twice(structured: Any, texts: list[str]) -> None:
    assert told(structured, *texts) == structured


@pytest.mark.parametrize("is_error", [True, False])
def test_any_other_text_is_told(is_error: bool) -> None:
    found = "Found 6 candidates: [1](https://x/1) The Laws of Software"
    assert told(READY, found, isError=is_error) == {"structuredContent": READY, "content": [found]}
    assert told(READY, json.dumps(READY), found, IMAGE) == {"structuredContent": READY, "content": [found, SHOWN]}
    assert told({"result": "sunny", "more": 1}, "sunny") == {
        "structuredContent": {"result": "sunny", "more": 1},
        "content": ["sunny"],
    }


def test_beside_nothing_the_texts_are_the_result() -> None:
    assert told({}, "Rate limited: retry in 30 s", isError=True) == "Rate limited: retry in 30 s"
    assert told({}, "one", "two") == "one\ntwo"
    assert told({}, IMAGE) == {"structuredContent": {}, "content": [SHOWN]}
    assert told({}) == {}


@pytest.mark.fault("F-25s")
@pytest.mark.parametrize("levels", [1, 64, 68, 69, 253, 255, 900, 1023, 1025, 100_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
def test_a_text_of_any_depth_is_a_text(begin: str, end: str, levels: int) -> None:
    text = begin * levels + "1" + end * levels
    assert told(READY, text) == {"structuredContent": READY, "content": [text]}
    if levels <= 68:
        value = json.loads(text)
        assert told(value, text) == value

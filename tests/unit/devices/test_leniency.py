"""Firmware writes numbers that JSON does not have: only the value itself is lost, in every message of a device."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import new_id
from karma.devices import leniency
from karma.devices.payloads import Refused, Unreadable, read_event, read_heartbeat, read_ready, read_response
from karma.devices.samples import read_telemetry

NOW = 1_795_250_000_000

NO_NUMBERS = [
    *("NaN", "nan", "-nan", "NAN", "-NaN", "+nan", "nan(0x8000)", "-nan(ind)", "1.#QNAN", "-1.#IND00"),
    *("Infinity", "-Infinity", "inf", "-inf", "+Inf", "INF", "-infinity", "1.#INF", "-1.#INF00"),
    *("1e999", "-1e400", "9" * 400, "9" * 5_000, "-" + "8" * 6_000),
]
LARGE = ["18446744073709551616", "184467440737095516160", "-9223372036854775809", "1" + "0" * 300]
GOOD = ["0", "-1", "1.5", "9007199254740993", "18446744073709551615", "-9223372036854775808", "1e300", "null", "true"]
TEXTS = ["nan", " -inf,", 'a" nan', "back\\", "{nan:", "NaN\n", "😀", "é"]
HALVES = ["\ud83d", "a\udc00b", "\udc00\ud83d"]


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> tuple[str, Any, list[str]]:
    """Draw JSON as a device writes it, the mended value, and the places that were mended."""
    kinds = ["good", "large", "text", "wrong", "half", *(["list", "object"] * 2 if depth else [])]
    match draw(st.sampled_from(kinds)):
        case "good":
            text = draw(st.sampled_from(GOOD))
            return text, orjson.loads(text), []
        case "large":
            text = draw(st.sampled_from(LARGE))
            return text, float(text), []
        case "text":
            text = draw(st.sampled_from(TEXTS))
            return json.dumps(text, ensure_ascii=draw(st.booleans())), orjson.loads(json.dumps(text)), []
        case "wrong":
            return draw(st.sampled_from(NO_NUMBERS)), None, [""]
        case "half":
            text = draw(st.sampled_from(HALVES))
            return json.dumps(text), "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in text), [""]
        case "list":
            inner = draw(st.lists(trees(depth - 1), max_size=3))
            wrong = [f"[{index}]{place}" for index, each in enumerate(inner) for place in each[2]]
            return f"[{', '.join(each[0] for each in inner)}]", [each[1] for each in inner], wrong
    members = draw(st.dictionaries(st.sampled_from(["a", "nan", 'x"inf', "é\\"]), trees(depth - 1), max_size=3))
    text = ",".join(f"{json.dumps(name)}:{each[0]}" for name, each in members.items())
    wrong = [f"[{json.dumps(name)}]{place}" for name, each in members.items() for place in each[2]]
    return f"{{{text}}}", {name: each[1] for name, each in members.items()}, wrong


@pytest.mark.fault("F-12e", "F-12f")
@given(trees())
def test_each_wrong_value_is_mended_and_named_and_nothing_else_changes(tree: tuple[str, Any, list[str]]) -> None:
    text, mended, wrong = tree
    assert leniency.mend(leniency.loads(text.encode())) == (mended, wrong)
    assert orjson.loads(orjson.dumps(mended)) == mended


@pytest.mark.fault("F-12f")
@given(st.text(alphabet='nanif"\\{}[]:,-+.#1e \n()', max_size=30) | st.text(max_size=8))
def test_any_other_text_that_is_no_json_is_refused(text: str) -> None:
    """Payloads that both parsers read have the same value; those that only ours reads hold one of the special words."""
    try:
        found = leniency.loads(text.encode())
    except leniency.UnreadablePayload:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(text)
        return
    try:
        assert orjson.loads(text) == found
    except orjson.JSONDecodeError:
        assert leniency.mend(found)[1]


@pytest.mark.parametrize(
    "text", ["nanometer", "xnan", "1nan", "nan1", "-", "+1", "inf.0", "--inf", "[nan nan]", "b'nan'"]
)
def test_a_word_that_only_begins_like_one_is_no_value(text: str) -> None:
    with pytest.raises(leniency.UnreadablePayload):
        leniency.loads(text.encode())


@pytest.mark.parametrize("payload", [b'"' + b"\\" * 131_071, b"nan(" * 32_768, b"-1.#" * 32_768, b'"' * 131_072])
def test_reading_takes_time_in_proportion_to_the_payload(payload: bytes) -> None:
    """Each is at the limit of payloads; a search that went back would take minutes."""
    with pytest.raises(leniency.UnreadablePayload):
        leniency.loads(payload)


@pytest.mark.fault("F-12e", "F-12f")
@pytest.mark.parametrize("wrong", NO_NUMBERS)
def test_a_metric_without_a_number_costs_itself(wrong: str) -> None:
    """Beside a whole number of any size, which is taken as the nearest float."""
    for large in LARGE:
        metrics = f'{{"bad": {wrong}, "counter": {large}, "bright": 30, "nan": 1}}'
        payload = f'{{"boot": "b", "seq": 1, "x": {wrong}, "samples": [{{"ts": {NOW}, "m": {metrics}}}]}}'
        found = read_telemetry(payload.encode(), received_ms=NOW)
        assert found.refused == (Refused('samples[0].m["bad"]', "WRONG_VALUE"),)
        [batch] = found.batches
        assert orjson.loads(batch.samples_json) == [[NOW, {"counter": float(large), "bright": 30, "nan": 1}]]


def body(reader: Callable[[bytes], Any], member: str, wrong: str) -> bytes:
    """Write a good message in which a member holds a wrong value."""
    heads: dict[Callable[[bytes], Any], str] = {
        read_heartbeat: '"boot": "b", "seq": 1',
        read_event: '"boot": "b", "kind": "door.opened"',
        read_ready: '"boot": "b"',
        read_response: f'"id": "{new_id()}", "status": "succeeded"',
    }
    return f'{{{heads[reader]}, "ts": {NOW}, {member}: {wrong}}}'.encode()


@pytest.mark.fault("F-12f")
@pytest.mark.parametrize("wrong", NO_NUMBERS)
@pytest.mark.parametrize(
    ("reader", "member", "field"),
    [
        (read_heartbeat, '"ip"', "ip"),
        (read_heartbeat, '"firmware_version"', "firmware_version"),
        (read_event, '"data": {"t": 1, "u"', 'data["u"]'),
        (read_response, '"result": {"t": 1, "u"', 'result["u"]'),
        (read_response, '"result": {"t": [1, {"u"', 'result["t"][1]["u"]'),
        (read_response, '"error": {"code": "X", "u"', 'error["u"]'),
    ],
)
def test_a_wrong_value_costs_itself_in_every_message(
    reader: Callable[[bytes], Any], member: str, field: str, wrong: str
) -> None:
    closing = "".join("}" if each == "{" else "]" for each in reversed(member) if each in "{[")
    read = reader(body(reader, member, wrong + closing))
    assert read.refused == (Refused(field, "WRONG_VALUE"),)
    if field.startswith("result"):
        assert b"null" in orjson.dumps(read.result)


@pytest.mark.fault("F-12f")
@pytest.mark.parametrize("reader", [read_heartbeat, read_event, read_ready, read_response])
def test_unknown_members_are_ignored_whatever_they_hold(reader: Callable[[bytes], Any]) -> None:
    for wrong in (*NO_NUMBERS, '"\\ud83d"', "[" * 2_000 + "]" * 2_000):
        read = reader(body(reader, '"rssi"', wrong))
        assert read is None or read.refused == ()


@pytest.mark.parametrize(("member", "field"), [('"id"', "id"), ('"status"', "status")])
def test_a_wrong_value_that_is_needed_refuses_the_message(member: str, field: str) -> None:
    with pytest.raises(Unreadable) as failure:
        read_response(body(read_response, member, "nan"))
    assert (failure.value.field, failure.value.reason) == (field, "WRONG_VALUE")


def test_a_number_is_read_as_the_fast_reader_reads_it() -> None:
    for text in (*GOOD, *LARGE):
        fast, lenient = orjson.loads(text), leniency.loads(text.encode())
        assert (fast, type(fast)) == (lenient, type(lenient))
    assert math.isnan(leniency.loads(b"-nan"))

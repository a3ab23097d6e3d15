"""The number of values of a request, which is counted before any of them is made."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core import freeform
from karma.core.freeform import (
    MAX_VALUES,
    TOO_MANY,
    Repeated,
    TooLarge,
    TooMany,
    large_as_texts,
    loads,
    too_large,
    values_of,
)

JSON = st.recursive(
    st.none() | st.integers(-9, 9) | st.text('ab,[{"\\\\', max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(',[{"\\\\', max_size=3), inner, max_size=4),
)


def number_of(value: object) -> int:
    """Count a value and all within it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(number_of, inner))


@given(JSON)
def test_values_are_counted_without_being_made_and_characters_of_texts_are_none(value: object) -> None:
    assert values_of(orjson.dumps(value)) == number_of(value)


@pytest.mark.parametrize(
    "element", ["0", "[]", '{"":0}', "[[[]]]", '""', r'"\\"'], ids=["number", "list", "object", "deep", "text", "slash"]
)
def test_a_request_has_so_many_values(element: str) -> None:
    each = number_of(orjson.loads(element))
    most = (MAX_VALUES - 5) // each

    def body(count: int) -> bytes:
        return f'{{"first":[1,2],"state":[{",".join([element] * count)}]}}'.encode()

    assert len(loads(body(most), of_request=True)["state"]) == most
    with pytest.raises(TooMany, match=f"^state: {TOO_MANY}$"):
        loads(body(most + 1), of_request=True)
    assert len(loads(body(most + 1))["state"]) == most + 1  # what is no request has its own limits


def test_a_text_may_have_any_characters() -> None:
    text = 'a,b;[{":' * 200_000
    assert loads(orjson.dumps({"text": text}), of_request=True) == {"text": text}


@pytest.mark.parametrize("body", [b'""' * 2 * MAX_VALUES + b",[" * MAX_VALUES, b"[" * 5_000_000], ids=["texts", "open"])
def test_what_is_no_json_is_not_read_either(body: bytes) -> None:
    with pytest.raises(TooMany):
        loads(body, of_request=True)


def test_the_count_is_before_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeform, "orjson", None)
    with pytest.raises(TooMany):
        loads(b"[" + b"0," * MAX_VALUES + b"0]", of_request=True)


NUMBERS = st.recursive(
    st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text('1e.-"\\0', max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("0123456789", max_size=25), inner, max_size=4),
)


def beyond(value: object) -> list[int]:
    """Return the whole numbers of a value that have more than 64 bits."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, int) and not -(2**63) <= value < 2**64 else []
    return [*own, *(each for one in inner for each in beyond(one))]


def as_text(value: object) -> object:
    """Return a value with texts in the place of numbers of more than 64 bits."""
    if isinstance(value, dict):
        return {name: as_text(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_text(inner) for inner in value]
    return str(value) if beyond(value) else value


@given(NUMBERS)
def test_a_whole_number_is_exact_or_refused(value: object) -> None:
    text = json.dumps(value).encode()
    assert len(too_large(text)) == len(beyond(value))
    if beyond(value):
        with pytest.raises(TooLarge):
            loads(text, levels=None)
    else:
        assert loads(text, levels=None) == value
    assert loads(large_as_texts(text), levels=None) == as_text(value)


def test_a_number_is_named_by_its_path_however_many_digits_it_has() -> None:
    with pytest.raises(TooLarge, match=r"^a\.1\.b: a whole number beyond 64 bits"):
        loads('{"a": [0, {"b": %s}]}' % ("9" * 300))
    deep = b"[" * 1_020 + b"9" * 20 + b"]" * 1_020
    with pytest.raises(TooLarge):
        loads(deep, levels=None)


@pytest.mark.fault("F-24x")
@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"a":1,"a":1}', "a"),
        ('{"x":[{"b" : "1:2", "c":{}, "b"\n:null}]}', "b"),
        ('{"\\u0061":1,"a":{"a":2}}', "a"),
        ('{"":1,"":2}', "body"),
        ('{"a":":","b":"\\":\\"","b":0}', "b"),
    ],
)
def test_a_member_of_a_request_that_stands_twice_is_named(body: str, name: str) -> None:
    with pytest.raises(Repeated) as caught:
        loads(body.encode(), of_request=True)
    assert (caught.value.member or "body") == name
    assert loads(body.encode()) is not None, "what is no request is read as ever"


@pytest.mark.fault("F-24x")
@given(
    st.recursive(
        st.none() | st.text() | st.integers(-(2**63), 2**63),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_member_of_a_request_that_stands_once_is_read(value: object) -> None:
    assert loads(orjson.dumps(value), of_request=True) == value


NAMES = st.text('ab:"\\u003A\u00e9', max_size=6)


@st.composite
def written(draw: st.DrawFn, levels: int = 3) -> str:
    """Draw JSON whose objects may have members twice, with names and texts that are written in several ways."""

    def text(value: str) -> str:
        plain = json.dumps(value, ensure_ascii=draw(st.booleans()))
        return "".join(rf"\u{ord(c):04x}" if c in ":ab" and draw(st.booleans()) else c for c in plain)

    kind = draw(st.sampled_from(["atom", "text", "list", "object"] if levels else ["atom", "text"]))
    space = draw(st.sampled_from(["", " ", "\n"]))
    if kind == "atom":
        return draw(st.sampled_from(["0", "-1.5e300", "true", "null", "18446744073709551615"]))
    if kind == "text":
        return text(draw(NAMES))
    inner = draw(st.lists(written(levels=levels - 1), max_size=4))
    if kind == "list":
        return "[" + f"{space},".join(inner) + "]"
    return "{" + ",".join(f"{text(draw(NAMES))}{space}:{space}{each}" for each in inner) + "}"


@pytest.mark.fault("F-24x")
@given(written())
def test_the_quick_check_finds_a_member_that_stands_twice_where_the_slow_one_does(text: str) -> None:
    expected = freeform.repeated_member(text.encode())
    if expected is None:
        loads(text.encode(), of_request=True)
    else:
        with pytest.raises(Repeated) as caught:
            loads(text.encode(), of_request=True)
        assert caught.value.member == expected


@pytest.mark.fault("F-24x")
def test_most_requests_are_not_read_twice_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeform, "repeated_member", lambda text: pytest.fail("was read once more"))
    said = {"id": "m1", "content": 'https://example.org: \\ " \u00e9 {a:b}', "parts": [{}, {"": ":"}, 1.5]}
    assert loads(orjson.dumps(said), of_request=True) == said

"""Conditions: what they mean is CEL's, whatever is no condition is named where it stands, and none costs much."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.core.conditions.language import (
    MAX_CHARS,
    MAX_DEPTH,
    MAX_TOKENS,
    compile_condition,
)
from karma.core.conditions.nodes import ConditionInvalid, ConditionUnanswered

ARGS: dict[str, Any] = {
    "command": "move",
    "params": {"speed": 0.5, "times": 3, "path": ["a", "b"], "none": None, "deep": {"x": 1}},
    "on": True,
    "big": 2**63,
    "zero": 0,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.sampled_from(["", "a", "move"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)


def holds(text: str, **values: object) -> bool:
    return compile_condition(text, {"args"}).holds({"args": ARGS, **values})


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "!false",
        "!!true",
        "args.command == 'move'",
        'args.command == "move"',
        "args['command'] != 'stop'",
        "args.params.speed <= 0.5 && args.params.speed > 0",
        "args.params.times == 3.0",
        "args.params.times < 3.5",
        "args.zero == -0.0",
        "'a' in args.params.path",
        "!('c' in args.params.path)",
        "'command' in args",
        "args.command in ['stop', 'move']",
        "[1, [2]] == [1.0, [2]]",
        "args.params.deep == args.params.deep",
        "args.params.path[1] == 'b'",
        "has(args.params.none) && args.params.none == null",
        "!has(args.nothing)",
        "has(args.nothing) || args.command.startsWith('mo')",
        "args.command.endsWith('ve') && args.command.contains('ov')",
        "args.command.size() == 4 && size(args.params.path) == 2 && size(args.params) == 5",
        "size('h\\u00e9 \\n\\'') == 5",
        "args.nothing || true",
        "true || args.nothing",
        "!(args.nothing && false)",
        "'3' != 3 && null != false && true != 1",
        "'a' < 'b' && false < true",
        "(args.on)",
        "-9223372036854775808 < 9223372036854775807",
    ],
)
def test_holds(text: str) -> None:
    assert holds(text)
    assert not holds(f"!({text})")


@pytest.mark.parametrize(
    "text",
    [
        "args.nothing",
        "args.command",
        "args.nothing == 1",
        "args.command.more == 1",
        "args.command < 3",
        "args.params.none < 1",
        "args.command && true",
        "!args.command",
        "args.params.path[2] == 'b'",
        "args.params.path['0'] == 'b'",
        "args.params.path[-1] == 'b'",
        "args.params.path[1.0] == 'b'",
        "args.zero in args.command",
        "args.command in args.zero",
        "size(args.zero) == 1",
        "args.zero.startsWith('a')",
        "args.big > 1",
        "has(args.command.x)",
        "args.nothing && true",
        "false || args.nothing",
    ],
)
def test_has_no_answer_where_types_do_not_fit_or_a_member_is_missing(text: str) -> None:
    with pytest.raises(ConditionUnanswered):
        holds(text)


@pytest.mark.parametrize(
    ("text", "at", "told"),
    [
        ("", 1, "expected a value, found the end"),
        ("args.command ==", 16, "expected a value"),
        ("args.command = 'x'", 14, "not readable"),
        ("arguments.x == 1", 1, "paths begin with args"),
        ("'x'", 1, "must yield true or false"),
        ("1 && true", 1, "must yield true or false"),
        ("true || 1", 9, "must yield true or false"),
        ("size(args)", 6, "must yield true or false"),
        ("1 < 2 < 3", 7, "do not chain"),
        ("args.x == 99999999999999999999", 11, "64 bits"),
        ("-args.x == 1", 2, "before numbers only"),
        ("has(args)", 5, "has() takes a path"),
        ("has((args.x))", 6, "has() takes a path"),
        ("args.command.matches('a')", 21, "expected an operator"),
        ("args.x == 'a", 11, "not readable"),
        (r"args.x == '\q'", 11, "escape"),
        (r"args.x == '\ud800'", 11, "half a character"),
        ("'a'.b == 1", 1, "has no members"),
        ("args.in == 1", 6, "expected a name"),
        ("1.startsWith('a')", 1, "takes strings"),
        ("size(1) == 1", 6, "has no size"),
        ("'a' in 'abc'", 8, "needs a list"),
        ("true)", 5, "expected an operator"),
        ("[1, 2", 6, "expected ','"),
        ("args.x[1 == 1", 14, "expected ']'"),
    ],
)
def test_what_is_no_condition_is_named_where_it_stands(text: str, at: int, told: str) -> None:
    with pytest.raises(ConditionInvalid, match=r"at character \d+") as met:
        compile_condition(text, {"args"})
    assert told in str(met.value)
    assert met.value.at == at


@pytest.mark.parametrize(
    "text",
    [
        "(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1),
        "[" * 200 + "]" * 200 + " == []",
        "true" + " || true" * MAX_TOKENS,
        "true" + " " * MAX_CHARS,
        "args" + "[args" * 60 + "]" * 60,
    ],
)
def test_what_is_too_long_or_too_deep_is_refused_at_once(text: str) -> None:
    began = time.thread_time()
    with pytest.raises(ConditionInvalid):
        compile_condition(text, {"args"})
    assert time.thread_time() - began < 0.5


def test_a_budget_bounds_what_large_values_cost_and_no_operator_passes_over_it() -> None:
    large = list(range(20_000))
    for text in ("args == args", "20001 in args", "true && args == args", "(args == args) || true", "!(args == args)"):
        with pytest.raises(ConditionUnanswered, match="steps"):
            compile_condition(text, {"args"}).holds({"args": large})
    assert compile_condition("'b' in args", {"args"}).holds({"args": dict.fromkeys("abc", large)})


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="args.xin()[]!<>=&|'\"0123456789, -truehasz\\", max_size=60))
def test_any_text_is_a_condition_or_is_refused_with_a_place_within_it(text: str) -> None:
    try:
        condition = compile_condition(text, {"args"})
    except ConditionInvalid as exc:
        place = exc.at
    else:
        place = 1
        with suppress(ConditionUnanswered):
            assert condition.holds({"args": ARGS}) in {True, False}
    assert 1 <= place <= len(text) + 1


@settings(max_examples=300, deadline=None)
@given(JSON, JSON)
def test_equality_is_symmetric_and_no_type_is_another(one: object, other: object) -> None:
    def equal(a: object, b: object) -> bool:
        return compile_condition("args == other", {"args", "other"}).holds({"args": a, "other": b})

    assert equal(one, one)
    assert equal(one, other) == equal(other, one)
    numbers = (int, float)
    is_same_kind = type(one) is type(other) or (type(one) in numbers and type(other) in numbers)
    assert not equal(one, other) or is_same_kind


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["true", "false", "args.none"]), st.sampled_from(["true", "false", "args.none"]))
def test_both_sides_of_and_and_or_are_alike(one: str, other: str) -> None:
    def answer(text: str) -> object:
        try:
            return holds(text)
        except ConditionUnanswered:
            return None

    for sign in ("&&", "||"):
        assert answer(f"{one} {sign} {other}") == answer(f"{other} {sign} {one}")
    values = {"true": True, "false": False}
    found = answer(f"{one} && {other}")
    assert found is (False if "false" in {one, other} else None if "args.none" in {one, other} else values[one])

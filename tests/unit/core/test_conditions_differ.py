"""Conditions against another implementation of CEL: generated expressions over generated values answer alike.

An answer is true, false, or none: ours says that a value of the wrong type has none, the other one raises or gives
something that is no boolean. Conditions that ours refuses as they are written are left out: the other one has no check
of types, and finds out only where it comes to the wrong one.
"""

from __future__ import annotations

from typing import Any, Final

import cel
import pytest
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st

from karma.core.conditions.language import compile_condition
from karma.core.conditions.nodes import ConditionInvalid, ConditionUnanswered

NAMES: Final = ("a", "b", "c")
WORDS: Final = ("", "a", "ab", "move", "\n'")
"""ASCII: the other implementation counts the bytes of a string, where CEL counts its code points."""
NUMBERS: Final = (0, 1, -1, 2, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 0.0, -0.0, 0.5, 1.0, -1.5, 1e300, float(2**53))

SCALARS = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(WORDS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
ARGS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)


def _written(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    if isinstance(value, float):
        return f"{value:.17f}" if abs(value) < 1e15 else f"{value:.1e}"
    return str(value)


LITERALS = st.sampled_from([None, True, False, *WORDS, 0, 1, -1, 2, 2**53, 2**53 + 1, 0.5, 1.0, -1.5]).map(_written)
STEPS = st.sampled_from([*(f".{name}" for name in NAMES), *(f"['{name}']" for name in NAMES), "[0]", "[1]"])
PATHS = st.lists(STEPS, max_size=3).map(lambda steps: "args" + "".join(steps))
LISTS = st.lists(LITERALS, max_size=3).map(lambda items: f"[{', '.join(items)}]")
OPERANDS = PATHS | LITERALS | LISTS | PATHS.map(lambda path: f"size({path})") | PATHS.map(lambda path: f"{path}.size()")
COMPARED = st.tuples(OPERANDS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), OPERANDS).map(" ".join)
HELD = st.one_of(
    st.tuples(st.sampled_from(WORDS).map(_written), st.just("in"), PATHS),
    st.tuples(LITERALS | PATHS, st.just("in"), LISTS),
).map(" ".join)
"""Only words in paths: what can be no key of an object is not in it here, as in cel-go, and a fault there."""
PRESENT = st.tuples(PATHS, st.sampled_from(NAMES)).map(lambda each: f"has({each[0]}.{each[1]})")
TESTED = st.tuples(PATHS, st.sampled_from(["startsWith", "endsWith", "contains"]), LITERALS | PATHS).map(
    lambda each: f"{each[0]}.{each[1]}({each[2]})"
)
CONDITIONS = st.recursive(
    COMPARED | HELD | PRESENT | TESTED | PATHS | st.sampled_from(["true", "false"]),
    lambda inner: (
        inner.map(lambda each: f"!({each})")
        | st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda each: f"({each[0]}) {each[1]} ({each[2]})")
    ),
    max_leaves=5,
)


def ours(text: str, args: object) -> bool | None:
    """Return what a condition answers; None: nothing."""
    try:
        condition = compile_condition(text, {"args"})
    except ConditionInvalid:
        reject()
    try:
        return condition.holds({"args": args})
    except ConditionUnanswered:
        return None


def theirs(text: str, args: object) -> bool | None:
    """Return what the other implementation answers; None: nothing, or no boolean."""
    try:
        found = cel.evaluate(text, {"args": args})
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, OverflowError, ZeroDivisionError):
        return None
    return found if isinstance(found, bool) else None


@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(CONDITIONS, ARGS)
@example("args.a < 9007199254740993.0", {"a": 2**53})
@example("size(args.a) == 2", {"a": "\n'"})
@example("args.a || true", {})
@example("'a' in args.b", {"b": {"a": None}})
def test_a_condition_answers_as_another_implementation_does(text: str, args: dict[str, Any]) -> None:
    assert ours(text, args) == theirs(text, args)


@pytest.mark.parametrize(("text", "answer"), [("args.a == 1.0", True), ("args.a == '1'", False), ("args.b", None)])
def test_the_other_implementation_is_asked(text: str, answer: bool | None) -> None:
    assert theirs(text, {"a": 1}) is answer

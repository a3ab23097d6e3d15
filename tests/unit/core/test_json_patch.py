"""Patches lead from any value to any other, as a second implementation applies them, too."""

from __future__ import annotations

import copy
import random
import tracemalloc
from contextlib import suppress
from typing import Any

import jsonpatch
import orjson
import pytest

from karma.core.freeform import MAX_LEVELS, is_deeper
from karma.core.json_patch import Bounds, PatchFailed, apply, difference, follow, is_same, spelled

NAMES = ("a", "b", "", "~", "/", "~1", "a/b", "é", "0", "-", "__proto__")
WIDE = Bounds(10**6, MAX_LEVELS)
LEAVES = (0, 1, -1, 1.0, 2.5, True, False, None, "", "x", "é")


def value_of(dice: random.Random, level: int = 0) -> Any:
    kind = dice.random()
    if level < 4 and kind < 0.4:
        return {dice.choice(NAMES): value_of(dice, level + 1) for _ in range(dice.randint(0, 4))}
    if level < 4 and kind < 0.7:
        return [value_of(dice, level + 1) for _ in range(dice.randint(0, 5))]
    return dice.choice(LEAVES)


def changed(dice: random.Random, value: Any) -> Any:
    """Return a value that differs from another in a few places."""
    if isinstance(value, dict) and value and dice.random() < 0.8:
        name = dice.choice(sorted(value))
        return {**value, name: changed(dice, value[name])} if dice.random() < 0.7 else {**value, "new": 1}
    if isinstance(value, list) and value and dice.random() < 0.8:
        at = dice.randrange(len(value))
        new = [changed(dice, value[at])] if dice.random() < 0.6 else [value[at], 7] if dice.random() < 0.5 else []
        return [*value[:at], *new, *value[at + 1 :]]
    return value_of(dice, 3)


@pytest.mark.parametrize("seed", range(20))
def test_a_difference_makes_the_new_value_of_the_old_one_by_either_implementation(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(150):
        old = value_of(dice)
        new = changed(dice, old) if dice.random() < 0.7 else value_of(dice)
        before = copy.deepcopy(old)
        patch = difference(old, new)
        assert is_same(apply(old, patch, WIDE), new)
        assert is_same(follow(old, patch), new)
        assert is_same(jsonpatch.apply_patch(copy.deepcopy(old), patch), new)
        assert is_same(old, before)
        assert (patch == []) is is_same(old, new)


@pytest.mark.parametrize("seed", range(5))
def test_values_are_the_same_just_when_they_are_spelled_alike(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        one = dice.choice((value_of(dice, 3), 2**63, -(2**63), 2.0**63, -0.0, 1e300, 2**53 + 1, 2.0**53))
        other = dice.choice((value_of(dice, 3), changed(dice, one), copy.deepcopy(one), 2**53, 2.0**64))
        assert is_same(one, other) is (spelled(one) == spelled(other)), (one, other)


@pytest.mark.parametrize("seed", range(20))
def test_random_operations_are_applied_as_by_the_other_implementation(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        value = value_of(dice)
        patch = [operation(dice) for _ in range(dice.randint(1, 3))]
        try:
            theirs: Any = ("is", jsonpatch.apply_patch(copy.deepcopy(value), patch))
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError):
            theirs = None
        try:
            ours: Any = ("is", apply(value, patch, WIDE))
        except PatchFailed:
            ours = None
        if theirs is not None and ours is not None:
            assert is_same(list(ours), list(theirs)), (value, patch)
        else:
            # The library takes what RFC 6902 does not: a list's place behind its end, a test of `true` by 1.
            assert ours is None, (value, patch)


def operation(dice: random.Random) -> dict[str, Any]:
    def pointer() -> str:
        steps = [dice.choice((*NAMES, "1")) for _ in range(dice.randint(0, 3))]
        return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)

    kind = dice.choice(("add", "remove", "replace", "move", "copy", "test"))
    return {"op": kind, "path": pointer(), "from": pointer(), "value": value_of(dice, 3)}


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, [{"op": "replace", "path": "/b", "value": 3}]),
        ({"a/b": {"~": 1}}, {"a/b": {"~": 2}}, [{"op": "replace", "path": "/a~1b/~0", "value": 2}]),
        ([1, 2, 3], [1, 9, 2, 3], [{"op": "add", "path": "/1", "value": 9}]),
        ([1, 2, 3, 4], [1, 4], [{"op": "remove", "path": "/1"}] * 2),
        ([{"done": False}, {"done": False}], [{"done": True}, {"done": False}], [
            {"op": "replace", "path": "/0/done", "value": True}
        ]),
        ({"n": 1}, {"n": True}, [{"op": "replace", "path": "/n", "value": True}]),
        ({"n": 1}, {"n": 1.0}, []),
        ([], None, [{"op": "replace", "path": "", "value": None}]),
    ],
)  # fmt: skip
def test_a_difference_has_what_changed_and_nothing_else(old: Any, new: Any, patch: Any) -> None:
    assert difference(old, new) == patch


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        ({"op": "put", "path": "/a"}, "op must be one of"),
        ({"op": "add", "path": "a", "value": 1}, "'a' is not a JSON Pointer"),
        ({"op": "add", "path": "/~2", "value": 1}, "not a JSON Pointer"),
        ({"op": "add", "value": 1}, "path must be a JSON Pointer"),
        ({"op": "add", "path": "/a"}, "add needs a value"),
        ({"op": "remove", "path": "/x"}, "there is no 'x'"),
        ({"op": "replace", "path": "/list/2", "value": 1}, "there is no '2'"),
        ({"op": "add", "path": "/list/01", "value": 1}, "there is no '01'"),
        ({"op": "add", "path": "/list/3", "value": 1}, "there is no '3'"),
        ({"op": "test", "path": "/list/0", "value": True}, "has another value"),
        ({"op": "move", "path": "/map/in/it", "from": "/map"}, "into itself"),
        ({"op": "copy", "path": "/a", "from": 1}, "from must be"),
    ],
)
def test_what_cannot_be_applied_says_why_and_changes_nothing(operation: dict[str, Any], why: str) -> None:
    value = {"list": [1, 2], "map": {"in": {}}}

    with pytest.raises(PatchFailed, match="operation 1: ") as failed:
        apply(value, [{"op": "add", "path": "/b", "value": 1}, operation], WIDE)

    assert why in str(failed.value)
    assert value == {"list": [1, 2], "map": {"in": {}}}


def is_within(value: Any, bounds: Bounds) -> bool:
    return not is_deeper(value, bounds.levels) and len(orjson.dumps(value)) <= bounds.size


@pytest.mark.fault("F-25r")
@pytest.mark.parametrize("nth", range(5))
def test_a_value_is_within_its_bounds_behind_each_operation(nth: int, seed: int) -> None:
    """The size behind each operation decides, however little the patch measures itself."""
    dice = random.Random(seed)
    refused = 0
    for _ in range(200):
        bounds = Bounds(dice.randint(40, 400), dice.randint(3, 8))
        value: Any = {"a": value_of(dice, 2), "b": [value_of(dice, 2)], "é": {"a": [], "b": {}}}
        patch = [growing(dice) for _ in range(dice.randint(1, 30))]
        step, fits, done = value, is_within(value, bounds), 0
        try:
            while fits and done < len(patch):
                step = apply(step, [patch[done]], WIDE)
                fits, done = is_within(step, bounds), done + 1
        except PatchFailed:
            fits = False
        try:
            made, why = apply(value, patch, bounds), ""
        except PatchFailed as exc:
            made, why = None, str(exc)
            refused += 1
        if why:
            assert not fits or "would write" in why, (value, patch, bounds, why)
        else:
            assert fits, (value, patch, bounds)
            assert is_same(made, step)
    assert 20 < refused < 198


def growing(dice: random.Random) -> dict[str, Any]:
    place, origin = (dice.choice(("/a", "/b", "/b/0", "/b/-", "/é/a", "/é/a/-", "/é/b", "")) for _ in range(2))
    if dice.random() < 0.5:
        return {"op": "copy", "path": place, "from": origin.replace("/-", "")}
    return dice.choice(
        (
            {"op": "add", "path": place, "value": value_of(dice, 3)},
            {"op": "replace", "path": place.replace("/-", ""), "value": dice.choice(LEAVES)},
            {"op": "move", "path": place, "from": "/b/0"},
            {"op": "remove", "path": "/b/0"},
        )
    )


@pytest.mark.fault("F-25r")
@pytest.mark.parametrize(
    ("value", "operation"),
    [
        ({"l": []}, {"op": "copy", "from": "/l", "path": "/l/-"}),
        ({"l": ["x" * 1000]}, {"op": "copy", "from": "/l/0", "path": "/l/-"}),
        ({"a": {}}, {"op": "copy", "from": "", "path": "/a/a"}),
        ({"a": 1}, {"op": "copy", "from": "", "path": "/a"}),
        ([], {"op": "copy", "from": "", "path": "/-"}),
        ([[[]] * 60_000], {"op": "copy", "from": "/0/0", "path": "/0/-"}),
    ],
    ids=["into itself", "beside itself", "the whole", "the whole over a part", "a list", "at the bounds"],
)
def test_copies_make_no_value_that_is_larger_than_allowed(value: Any, operation: dict[str, str]) -> None:
    bounds = Bounds(256 * 1024, MAX_LEVELS)
    tracemalloc.start()
    try:
        with suppress(PatchFailed):  # what fits is applied, and both ways are bounded
            assert is_within(apply(value, [operation] * 100, bounds), bounds)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20 * 1024 * 1024


@pytest.mark.fault("F-25r")
@pytest.mark.parametrize("kind", ["copy", "move", "test", "other", None])
def test_a_difference_copies_nothing(kind: str | None) -> None:
    with pytest.raises(PatchFailed, match="in no difference"):
        follow({"a": 1}, [{"op": kind, "path": "/b", "from": "/a", "value": 1}])

"""Merges, deltas, limits and what of a shadow is a former owner's."""

from __future__ import annotations

import copy
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.core.errors import ValidationFailed
from karma.devices.shadow import MAX_DESIRED_BYTES, Shadow, check_desired, merged, patch_to, same, without_empty
from tests.fakes.shadows import FakeShadows


@pytest.mark.parametrize(
    ("settings", "patch", "after"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": None, "z": 3}}, {"a": {"y": 2, "z": 3}}),
        ({"a": 1}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": {"x": 1}}, {"a": [1, 2]}, {"a": [1, 2]}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"b": None}, {"a": 1}),
    ],
    ids=["add", "remove", "nested", "object for value", "list for object", "lists are replaced", "remove what is not"],
)
def test_a_patch_merges_as_rfc_7396_has_it(settings: Any, patch: Any, after: Any) -> None:
    assert merged(settings, patch) == after


def rfc_7396(target: Any, patch: Any) -> Any:
    """Merge as section 2 of the RFC writes it."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = rfc_7396(target.get(name), value)
    return target


def some(dice: random.Random, depth: int = 0, *, nulls: bool = False) -> dict[str, Any]:
    """Return settings, or a patch of them, of one to three names at each level."""
    values = [1, "x", [1, 2], False, *([None] if nulls else [])]
    return {
        name: some(dice, depth + 1, nulls=nulls) if depth < 2 and dice.random() < 0.4 else dice.choice(values)
        for name in dice.sample(["a", "b", "timestamp"], dice.randint(1, 3))
    }


def test_whatever_is_patched_becomes_what_the_rfc_says_here_and_at_the_broker(seed: int) -> None:
    dice, shadows = random.Random(seed), FakeShadows()
    oracle: dict[str, Any] = {}
    for turn in range(300):
        patch = some(dice, nulls=True)
        before = shadows.read("t").desired
        oracle = without_empty(rfc_7396(copy.deepcopy(oracle), patch))
        wanted = without_empty(merged(before, patch))
        assert wanted == oracle, patch
        shadows.update("t", desired=patch_to(wanted, stored=before, seen=before), reported={}, version=turn, token="")
        assert without_empty(shadows.read("t").desired) == oracle, patch
        assert (patch_to(wanted, stored=before, seen=before) == {}) == (wanted == before)


def test_true_is_not_one_and_what_a_list_holds_counts() -> None:
    assert patch_to({"a": True}, stored={"a": 1}, seen={"a": 1}) == {"a": True}
    assert patch_to({"a": [True]}, stored={"a": [1]}, seen={"a": [1]}) == {"a": [True]}
    assert patch_to({"a": [{"b": 0}]}, stored={"a": [{"b": False}]}, seen={"a": [{"b": False}]}) == {"a": [{"b": 0}]}
    assert patch_to({"a": 1.0}, stored={"a": 1}, seen={"a": 1}) == {}
    assert same({"a": [1]}, {"a": [1]})
    assert not same({"a": [1]}, {"a": [1, 2]})
    assert not same({"a": 1}, {"b": 1})


def test_a_list_without_values_has_no_time_and_is_shown_where_nothing_is_older() -> None:
    born = datetime.fromtimestamp(200, UTC)
    mine = Shadow(desired={"a": [], "b": 1}, desired_stamps={"a": [], "b": {"timestamp": 200}})
    assert mine.since(born).desired == {"a": [], "b": 1}
    left = Shadow(desired={"a": [], "b": 1}, desired_stamps={"a": [], "b": {"timestamp": 199}})
    assert left.since(born).desired == {}
    only = Shadow(reported={"a": {"b": []}, "c": {}}, reported_stamps={"a": {"b": []}})
    assert only.since(born).reported == {"a": {"b": []}}


def test_the_delta_has_what_is_not_reported_so() -> None:
    shadow = Shadow(
        desired={"same": 1, "other": 2, "none": 3, "on": True, "deep": {"x": 1, "y": 2}, "list": [1]},
        reported={"same": 1, "other": 5, "on": 1, "deep": {"x": 1, "y": 3}, "list": [1], "own": 9},
    )
    assert shadow.delta == {"other": 2, "none": 3, "on": True, "deep": {"y": 2}}


@pytest.mark.fault("F-47b")
def test_what_is_older_than_the_row_is_not_shown_and_goes_with_the_next_change(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(50):
        clock = [100]
        shadows = FakeShadows(now_s=lambda clock=clock: clock[0])  # type: ignore[misc]
        shadows.update("t", desired=some(dice), reported=some(dice), version=0, token="former")
        assert shadows.read("t").desired, "there is something to hide"
        born = datetime.fromtimestamp(200, UTC)
        assert (shadows.read("t").since(born).desired, shadows.read("t").since(born).reported) == ({}, {})
        clock[0] = 200
        mine = some(dice)
        shadows.update("t", desired=mine, reported={}, version=1, token="mine")
        stored = shadows.read("t")
        seen = stored.since(born)
        assert seen.desired == mine
        patch = some(dice, nulls=True)
        wanted = without_empty(merged(seen.desired, patch))
        shadows.update(
            "t",
            desired=patch_to(wanted, stored=stored.desired, seen=seen.desired),
            reported=patch_to(seen.reported, stored=stored.reported, seen=seen.reported),
            version=2,
            token="next",
        )
        assert shadows.read("t").since(born).desired == wanted
        assert shadows.read("t").desired == wanted
        assert shadows.read("t").reported == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"a": "x" * MAX_DESIRED_BYTES},
        {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}},
        {"a": [[[[[1]]]]]},
        {"a": [1, None]},
        {"": 1},
        {"x" * 65: 1},
        {"a\n": 1},
        {str(each): each for each in range(201)},
    ],
    ids=["bytes", "levels", "levels of lists", "null in a list", "no name", "long name", "control", "values"],
)
def test_settings_that_no_shadow_holds_are_refused_by_name(settings: Any) -> None:
    with pytest.raises(ValidationFailed):
        check_desired(settings)


def test_settings_within_the_limits_are_taken() -> None:
    check_desired({"a": {"b": {"c": {"d": {"e": 1}}}}, "n": None, "ü": [1, {"x": [2]}]})

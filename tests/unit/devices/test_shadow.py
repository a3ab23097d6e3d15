"""Merges, deltas, limits and what of a shadow is a former owner's."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.core.errors import ValidationFailed
from karma.devices.shadow import MAX_DESIRED_BYTES, Shadow, check_desired, merged, removing
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


def test_the_delta_has_what_is_not_reported_so() -> None:
    shadow = Shadow(
        desired={"same": 1, "other": 2, "none": 3, "on": True, "deep": {"x": 1, "y": 2}, "list": [1]},
        reported={"same": 1, "other": 5, "on": 1, "deep": {"x": 1, "y": 3}, "list": [1], "own": 9},
    )
    assert shadow.delta == {"other": 2, "none": 3, "on": True, "deep": {"y": 2}}


@pytest.mark.fault("F-47b")
def test_what_is_older_than_the_row_is_not_shown_and_goes_with_the_next_change(seed: int) -> None:
    dice = random.Random(seed)
    names = ["a", "b", "timestamp"]

    def some(depth: int = 0) -> dict[str, Any]:
        return {
            name: some(depth + 1) if depth < 2 and dice.random() < 0.4 else dice.choice([1, "x", [1, 2], False])
            for name in dice.sample(names, dice.randint(1, 3))
        }

    for _ in range(50):
        clock = [100]
        shadows = FakeShadows(now_s=lambda clock=clock: clock[0])  # type: ignore[misc]
        shadows.update("t", desired=some(), reported=some(), version=0, token="former")
        born = datetime.fromtimestamp(200, UTC)
        assert (shadows.read("t").since(born).desired, shadows.read("t").since(born).reported) == ({}, {})
        clock[0] = 200
        mine = some()
        shadows.update("t", desired=mine, reported={}, version=1, token="mine")
        stored = shadows.read("t")
        seen = stored.since(born)
        assert seen.desired == mine
        patch = some()
        wanted = merged(seen.desired, patch)
        shadows.update(
            "t",
            desired=removing(stored.desired, seen.desired, patch),
            reported=removing(stored.reported, seen.reported, {}),
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

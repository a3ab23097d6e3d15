"""A rotation of the signing keys goes on only when no process and no token needs the old key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from karma.identity.sessions.rotation import PUBLISHED, RETIRED, NotDue, Step, advance, rotation_of
from karma.identity.sessions.signing_keys import KeyRing, KeysUnusable

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
FIRST: dict[str, object] = {"current": "k1", "k1": "1" * 40}
SOON = timedelta(milliseconds=1)


def step(secret: dict[str, object], at: datetime, *, early: bool = False) -> dict[str, object]:
    return advance(secret, now=at, new_key=lambda: "2" * 40, early=early)


class TestARotation:
    def test_adds_promotes_and_drops(self) -> None:
        added = step(FIRST, NOW)
        ring = KeyRing.parse(added)
        assert (ring.current, dict(ring.keys)) == ("k1", {"k1": "1" * 40, "k2": "2" * 40})
        promoted_at = NOW + PUBLISHED
        promoted = step(added, promoted_at)
        assert KeyRing.parse(promoted).current == "k2"
        assert set(KeyRing.parse(promoted).keys) == {"k1", "k2"}
        assert step(promoted, promoted_at + RETIRED) == {"current": "k2", "k2": "2" * 40}

    def test_goes_on_with_the_next_number(self) -> None:
        assert "k3" in step({"current": "k2", "k2": "x" * 32}, NOW)
        assert "k1" in step({"current": "by-hand", "by-hand": "x" * 32}, NOW)

    def test_waits_until_every_process_knows_the_new_key(self) -> None:
        added = step(FIRST, NOW)
        with pytest.raises(NotDue) as caught:
            step(added, NOW + PUBLISHED - SOON)
        assert (caught.value.step, caught.value.due_at) == (Step.PROMOTE, NOW + PUBLISHED)
        assert timedelta(minutes=5) < PUBLISHED

    def test_waits_until_nothing_is_left_of_the_old_key(self) -> None:
        promoted = step(step(FIRST, NOW), NOW + PUBLISHED)
        with pytest.raises(NotDue) as caught:
            step(promoted, NOW + PUBLISHED + RETIRED - SOON)
        assert caught.value.step is Step.DROP
        assert timedelta(hours=24) < RETIRED

    def test_of_a_key_that_leaked_does_not_wait(self) -> None:
        secret = dict(FIRST)
        for _ in range(3):
            secret = step(secret, NOW, early=True)
        assert secret == {"current": "k2", "k2": "2" * 40}

    def test_says_how_far_it_is(self) -> None:
        added = step(FIRST, NOW)
        before, after = rotation_of(FIRST), rotation_of(added)
        assert (before.step, before.due_at, before.accepted) == (Step.ADD, None, ("k1",))
        assert (after.step, after.due_at, after.accepted) == (Step.PROMOTE, NOW + PUBLISHED, ("k1", "k2"))

    def test_of_keys_that_were_added_by_hand_drops_none_at_once(self) -> None:
        assert rotation_of({"current": "a", "a": "x" * 32, "b": "y" * 32}).step is Step.ADD

    def test_needs_a_secret_of_ours(self) -> None:
        with pytest.raises(KeysUnusable):
            step({"secrets": ["x"]}, NOW)

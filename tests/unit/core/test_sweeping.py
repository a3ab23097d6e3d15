"""One item that cannot be dealt with costs itself: the loop of all sweeps goes on, and the alarm hears of a bug."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import StorageThrottled
from karma.core.sweeping import sweep_each
from tests.fakes.devices import FakeClock

CLOCK = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("failure", "counted", "alarming"),
    [
        pytest.param(ConditionFailed(), None, False, id="changed by somebody else"),
        pytest.param(StorageThrottled("busy"), "SweepItemLeft", False, id="another system does not answer"),
        pytest.param(RuntimeError("secret"), "SweepItemBroken", True, id="a bug"),
        pytest.param(KeyError("x"), "SweepItemBroken", True, id="an unknown state"),
    ],
)
@pytest.mark.fault("F-48a")
def test_the_others_are_dealt_with(
    capsys: pytest.CaptureFixture[str], failure: Exception, counted: str | None, alarming: bool
) -> None:
    met: list[str] = []

    def deal_with(item: str) -> int:
        met.append(item)
        if item == "poison":
            raise failure
        return 2

    assert sweep_each("dust", ["a", "poison", "b"], deal_with, name=str, clock=CLOCK) == 4
    assert met == ["a", "poison", "b"]
    told = capsys.readouterr().out
    assert (counted is None) or f'"{counted}"' in told
    assert ('"UnhandledError"' in told) is alarming


def test_the_end_of_the_process_is_no_item_s_failure() -> None:
    def deal_with(_: str) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep_each("dust", ["a"], deal_with, name=str, clock=CLOCK)

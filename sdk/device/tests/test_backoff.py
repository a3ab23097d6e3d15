import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma_device.backoff import Backoff


@given(base_s=st.floats(0.01, 10), factor=st.floats(1, 1000), attempts=st.integers(1, 200), share=st.floats(0, 1))
def test_each_delay_lies_in_its_window(base_s: float, factor: float, attempts: int, share: float) -> None:
    cap_s = base_s * factor
    backoff = Backoff(base_s=base_s, cap_s=cap_s, uniform=lambda low, high: low + (high - low) * share)
    for attempt in range(attempts):
        ceiling = min(cap_s, base_s * 2.0 ** min(attempt, 64))
        delay_s = backoff.next_delay_s()
        assert ceiling / 2 <= delay_s <= ceiling * (1 + 1e-9)
        assert delay_s > 0


def test_reset_starts_from_the_shortest_delay() -> None:
    backoff = Backoff(base_s=1, cap_s=60, uniform=lambda _low, high: high)
    assert [backoff.next_delay_s() for _ in range(4)] == [1, 2, 4, 8]
    backoff.reset()
    assert backoff.next_delay_s() == 1


@pytest.mark.parametrize(("base_s", "cap_s"), [(0, 1), (2, 1), (-1, 5)])
def test_a_window_that_cannot_grow_is_refused(base_s: float, cap_s: float) -> None:
    with pytest.raises(ValueError, match="base_s"):
        Backoff(base_s=base_s, cap_s=cap_s)

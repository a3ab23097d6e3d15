"""Pauses before a failed call of a model is repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.integrations.retry_after import pause_of
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed
from karma.models.retrying import RetryPolicy

POLICY = RetryPolicy(attempts=5, base_s=0.5, cap_s=8.0, longest_asked_s=30.0)
FAILURES = st.builds(
    lambda code, transient, asked_s, usage: ModelFailed(
        code, usage=usage, is_transient=transient, retry_after_s=asked_s
    ),
    st.sampled_from(ModelErrorCode),
    st.booleans(),
    st.none() | st.floats(0, 100_000),
    st.sampled_from([Usage(), Usage(), Usage(input_tokens=1), Usage(output_tokens=0)]),
)


@given(FAILURES, st.integers(1, 10), st.floats(-10, 1_000), st.floats(0, 1))
def test_no_pause_is_longer_than_the_time_left_or_than_anybody_may_ask(
    failure: ModelFailed, tried: int, left_s: float, drawn: float
) -> None:
    pause_s = POLICY.pause_s(failure, tried=tried, left_s=left_s, draw=lambda: drawn)

    if not failure.is_transient or failure.usage != Usage() or tried >= POLICY.attempts:
        assert pause_s is None
    if pause_s is None:
        return
    assert 0 <= pause_s <= left_s
    own_s = drawn * min(8.0, 0.5 * 2 ** (tried - 1))
    if failure.retry_after_s is None:
        assert pause_s == own_s
    else:
        assert max(own_s, failure.retry_after_s) <= pause_s <= 30.0 * 1.25


@pytest.mark.parametrize(
    "told", [{"retry-after": "0"}, {"retry-after": "Mon, 30 Nov 2020 00:00:00 GMT"}, {"retry-after-ms": "0"}]
)
def test_who_asks_for_no_pause_is_asked_again_after_our_own(told: dict[str, str]) -> None:
    failure = ModelFailed(ModelErrorCode.MODEL_RATE_LIMITED, is_transient=True, retry_after_s=pause_of(told))

    pauses = [POLICY.pause_s(failure, tried=n, left_s=100, draw=lambda: 0.5) for n in range(1, 5)]

    assert pauses == [0.25, 0.5, 1, 2]


def test_pauses_grow_to_a_limit() -> None:
    failure = ModelFailed(ModelErrorCode.MODEL_OVERLOADED, is_transient=True)
    policy = RetryPolicy(attempts=100)

    longest = [policy.pause_s(failure, tried=n, left_s=100, draw=lambda: 1.0) for n in range(1, 8)]

    assert longest == [0.5, 1, 2, 4, 8, 8, 8]

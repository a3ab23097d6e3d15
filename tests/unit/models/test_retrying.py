"""Pauses before a failed call of a model is repeated."""

from hypothesis import given
from hypothesis import strategies as st

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
    if failure.retry_after_s is None:
        assert pause_s == drawn * min(8.0, 0.5 * 2 ** (tried - 1))
    else:
        assert failure.retry_after_s <= pause_s <= 30.0 * 1.25


def test_pauses_grow_to_a_limit() -> None:
    failure = ModelFailed(ModelErrorCode.MODEL_OVERLOADED, is_transient=True)
    policy = RetryPolicy(attempts=100)

    longest = [policy.pause_s(failure, tried=n, left_s=100, draw=lambda: 1.0) for n in range(1, 8)]

    assert longest == [0.5, 1, 2, 4, 8, 8, 8]

"""What this package writes, the service reads: the two ends of the protocol held against each other."""

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.devices.payloads import MAX_ANSWER_BYTES, read_response, read_telemetry
from karma_device.batching import MAX_METRICS, Batcher, MetricValue, encode_sample
from karma_device.messages import MAX_RESULT_BYTES, Answer, CommandStatus, encode_answer

NOW_MS = 1_780_000_000_000
COMMAND_ID = "019a0000-0000-7000-8000-000000000001"


@given(
    st.lists(
        st.tuples(
            st.dictionaries(
                st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", fullmatch=True),
                st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300),
                min_size=1,
                max_size=MAX_METRICS,
            ),
            st.integers(NOW_MS - 3_600_000, NOW_MS),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_the_service_reads_every_batch(samples: list[tuple[dict[str, MetricValue], int]]) -> None:
    batcher = Batcher(boot=uuid.uuid4().hex, target_bytes=2**20, max_samples=100, max_age_s=1.0)
    for metrics, ts in samples:
        batcher.add(encode_sample(metrics, ts), now=0.0)
    batch = batcher.seal(7)
    assert batch is not None
    read = read_telemetry(batch.payload, received_ms=NOW_MS)
    assert (read.seq, read.count) == (7, len(samples))
    assert json.loads(read.samples_json) == [
        [ts, {k: _number(v) for k, v in metrics.items()}] for metrics, ts in sorted(samples, key=lambda pair: pair[1])
    ]


@pytest.mark.parametrize("status", list(CommandStatus))
def test_the_service_reads_every_answer(status: CommandStatus) -> None:
    read = read_response(encode_answer(COMMAND_ID, Answer.refused(status, "CODE", "why"), ts=NOW_MS))
    assert (read.command_id, str(read.status), read.error) == (
        COMMAND_ID,
        str(status),
        {"code": "CODE", "message": "why"},
    )


def test_the_largest_result_fits_the_service() -> None:
    result = {"x": "a" * (MAX_RESULT_BYTES - 8)}
    answer = encode_answer(COMMAND_ID, Answer(CommandStatus.SUCCEEDED, result=dict(result)), ts=NOW_MS)
    assert len(answer) <= MAX_ANSWER_BYTES
    assert read_response(answer).result == result


def _number(value: MetricValue) -> float | int:
    return int(value) if isinstance(value, bool) else value

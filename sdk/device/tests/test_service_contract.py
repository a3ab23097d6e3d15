"""The service reads the messages that this package writes: both ends of the protocol are tested together."""

import json
import unicodedata
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.devices.payloads import MAX_ANSWER_BYTES, read_response
from karma.devices.samples import metric_name, read_telemetry
from karma_device.batching import MAX_METRICS, Batcher, MetricValue, encode_sample, sift
from karma_device.errors import SampleInvalid
from karma_device.messages import MAX_RESULT_BYTES, Answer, CommandStatus, encode_answer
from karma_device.store import Number

NOW_MS = 1_780_000_000_000
COMMAND_ID = "019a0000-0000-7000-8000-000000000001"


@given(
    st.lists(
        st.tuples(
            st.dictionaries(
                st.text(max_size=64).filter(metric_name),
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
        batcher.add(encode_sample(sift(metrics)[0], ts), now=0.0)
    batch = batcher.seal(Number("b", 7))
    assert batch is not None
    read = read_telemetry(batch.payload, received_ms=NOW_MS)
    assert read.refused == ()
    assert {each.seq for each in read.batches} == {7}
    expected = sorted(samples, key=lambda pair: pair[1])
    assert [each for part in read.batches for each in json.loads(part.samples_json)] == [
        [ts, {unicodedata.normalize("NFC", k): _number(v) for k, v in metrics.items()}] for metrics, ts in expected
    ]


@pytest.mark.fault("F-12b")
@given(
    st.text(max_size=66)
    | st.sampled_from(["3v3", "cpu temp", "env/temp", "\u6e29\u5ea6", "a\n", " a", "x" * 65, "\ud800"])
)
def test_both_ends_take_the_same_names(name: str) -> None:
    if metric_name(name) is None:
        with pytest.raises(SampleInvalid):
            encode_sample({name: 1}, NOW_MS)
    else:
        encode_sample({name: 1}, NOW_MS)


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

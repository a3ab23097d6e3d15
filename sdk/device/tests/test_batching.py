import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma_device.batching import (
    MAX_MESSAGE_BYTES,
    MAX_METRICS,
    MAX_SPAN_MS,
    Batch,
    Batcher,
    MetricValue,
    Sieve,
    TelemetryBuffer,
    encode_sample,
)
from karma_device.errors import SampleInvalid
from karma_device.store import Number

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", fullmatch=True)
VALUES: st.SearchStrategy[MetricValue] = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(-1e300, 1e300)
)
SAMPLES = st.lists(
    st.tuples(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5), st.integers(0, 4 * MAX_SPAN_MS)), max_size=60
)


def batcher(**overrides: Any) -> Batcher:
    return Batcher(**{"boot": "b", "target_bytes": 2000, "max_samples": 20, "max_age_s": 5.0, **overrides})


class TestBatcher:
    @given(SAMPLES)
    def test_every_sample_is_in_one_message_in_order_within_all_bounds(
        self, samples: list[tuple[dict[str, MetricValue], int]]
    ) -> None:
        subject = batcher()
        batches: list[Batch] = []

        def seal() -> None:
            batch = subject.seal(Number("b", len(batches)))
            assert batch is not None
            batches.append(batch)

        for metrics, ts in samples:
            sample = encode_sample(metrics, ts, max_bytes=subject.max_sample_bytes)
            if not subject.fits(sample):
                seal()
            subject.add(sample, now=0.0)
            if subject.is_full():
                seal()
        if subject.due_at is not None:
            seal()

        bodies = [json.loads(batch.payload) for batch in batches]
        assert [(s["m"], s["ts"]) for body in bodies for s in body["samples"]] == samples
        assert [body["seq"] for body in bodies] == list(range(len(batches)))
        for batch, body in zip(batches, bodies, strict=True):
            times = [sample["ts"] for sample in body["samples"]]
            assert body["boot"] == "b"
            assert 1 <= len(times) == batch.samples <= 20
            assert max(times) - min(times) <= MAX_SPAN_MS
            assert len(batch.payload) <= (2000 if len(times) > 1 else MAX_MESSAGE_BYTES)

    def test_a_sample_beyond_the_target_goes_alone(self) -> None:
        subject = batcher(target_bytes=100)
        subject.add(encode_sample({"n": 1}, 0), now=0.0)
        large = encode_sample({f"metric_{number}": number for number in range(MAX_METRICS)}, 0)
        assert not subject.fits(large)
        subject.seal(Number("b", 0))
        assert subject.fits(large)
        subject.add(large, now=0.0)
        assert subject.is_full()

    def test_no_sample_exceeds_the_hard_limit(self) -> None:
        subject = batcher(boot="x" * 64)
        largest = {f"m{number:02d}" + "x" * 61: -1.2345678901234567e-300 for number in range(MAX_METRICS)}
        sample = encode_sample(largest, 2**53, max_bytes=subject.max_sample_bytes)
        subject.add(sample, now=0.0)
        batch = subject.seal(Number("x" * 64, 9_999_999_999))
        assert batch is not None
        assert len(batch.payload) <= MAX_MESSAGE_BYTES
        with pytest.raises(SampleInvalid, match="exceeds"):
            encode_sample(largest, 0, max_bytes=len(sample.encoded) - 20)

    def test_age_counts_from_the_first_sample(self) -> None:
        subject = batcher()
        due = [subject.due_at]
        subject.add(encode_sample({"n": 1}, 0), now=100.0)
        subject.add(encode_sample({"n": 2}, 1), now=104.0)
        due.append(subject.due_at)
        subject.seal(Number("b", 0))
        due.append(subject.due_at)
        assert due == [None, 105.0, None]
        assert subject.seal(Number("b", 1)) is None


class TestEncodeSample:
    @pytest.mark.parametrize(
        ("metrics", "ts"),
        [
            ({}, 0),
            ({" a": 1}, 0),
            ({"": 1}, 0),
            ({"a" * 65: 1}, 0),
            ({1: 1}, 0),
            ({"a": None}, 0),
            ({"a": [1]}, 0),
            ({"a": math.nan}, 0),
            ({"a": math.inf}, 0),
            ({"a": 2**53 + 1}, 0),
            ({"a": "on"}, 0),
            ({"a": 1e301}, 0),
            ({"a\n": 1}, 0),
            ({f"m{number}": 1 for number in range(MAX_METRICS + 1)}, 0),
            ({"a": 1}, -1),
            ({"a": 1}, 1.5),
            ({"a": 1}, True),
        ],
    )
    def test_what_json_cannot_carry_is_refused(self, metrics: Any, ts: Any) -> None:
        with pytest.raises(SampleInvalid):
            encode_sample(metrics, ts)


BAD_VALUES: list[Any] = [math.nan, math.inf, -math.inf, 1e301, 2**53 + 1, None, "n/a", [1], {}, b"1", 1j]


@pytest.mark.fault("F-12j")
class TestSieve:
    @given(st.lists(st.dictionaries(NAMES, VALUES | st.sampled_from(BAD_VALUES), max_size=6), max_size=6))
    def test_a_bad_value_costs_its_metric_is_counted_and_told_once(self, samples: list[dict[str, Any]]) -> None:
        sieve, count, failing = Sieve(), 0, set[str]()
        for metrics in samples:
            bad = {name for name, value in metrics.items() if any(value is each for each in BAD_VALUES)}
            good, fresh = sieve.take(metrics)
            assert good == {name: value for name, value in metrics.items() if name not in bad}
            assert len(fresh) == len(bad - failing)
            count += len(bad)
            failing = (failing - good.keys()) | bad
            assert sieve.dropped == count

    @pytest.mark.parametrize("name", ["", " a", "a\n", "x" * 65, "\ud800", 1, None])
    def test_a_name_that_no_metric_can_have_is_an_error_of_the_program(self, name: Any) -> None:
        with pytest.raises(SampleInvalid, match="metric name"):
            Sieve().take({"good": 1, name: 1})

    def test_of_two_spellings_the_last_counts_and_the_other_is_told(self) -> None:
        sieve = Sieve()
        good, [told] = sieve.take({"e\u0301": 1, "\u00e9": 2})
        assert good == {"\u00e9": 2}
        assert "two spellings" in told
        assert sieve.dropped == 1


class TestTelemetryBuffer:
    @staticmethod
    def batch(seq: int, size: int = 10) -> Batch:
        return Batch(seq=seq, payload=bytes(size), samples=2)

    def test_the_oldest_waiting_is_dropped_but_never_one_on_the_wire(self) -> None:
        buffer = TelemetryBuffer(max_bytes=30)
        for seq in range(3):
            buffer.push(self.batch(seq))
        on_wire = buffer.take()
        buffer.push(self.batch(3))
        assert on_wire is not None
        assert on_wire.seq == 0
        assert (buffer.dropped_batches, buffer.dropped_samples, len(buffer)) == (1, 2, 3)
        buffer.release_all()
        assert [b.seq for b in iter(buffer.take, None)] == [0, 2, 3]

    def test_a_refused_message_is_counted(self) -> None:
        buffer = TelemetryBuffer(max_bytes=100)
        buffer.push(self.batch(0))
        buffer.take()
        buffer.reject(0)
        buffer.reject(0)
        assert (len(buffer), buffer.size_bytes, buffer.dropped_batches) == (0, 0, 1)

    @given(st.lists(st.sampled_from(["push", "take", "confirm", "release"]), max_size=80))
    def test_nothing_is_lost_but_what_is_counted(self, steps: list[str]) -> None:
        buffer = TelemetryBuffer(max_bytes=50)
        pushed = 0
        confirmed: list[int] = []
        taken: list[int] = []
        for step in steps:
            if step == "push":
                buffer.push(self.batch(pushed))
                pushed += 1
            elif step == "take":
                batch = buffer.take()
                if batch is not None:
                    assert batch.seq not in taken
                    taken.append(batch.seq)
            elif step == "confirm" and taken:
                buffer.confirm(taken[0])
                confirmed.append(taken.pop(0))
            elif step == "release":
                buffer.release_all()
                taken = []
        assert len(set(confirmed)) == len(confirmed)
        assert len(buffer) + len(confirmed) + buffer.dropped_batches == pushed
        assert buffer.size_bytes == 10 * len(buffer)
        buffer.release_all()
        rest = [batch.seq for batch in iter(buffer.take, None)]
        assert rest == sorted(rest)
        assert not set(rest) & set(confirmed)

"""Packs telemetry samples into messages, and keeps these in a bounded buffer until they are sent.

Message: `{"boot": str, "seq": int, "samples": [{"ts": ms, "m": {"temp_c": 41.2}}]}`. Its bytes are fixed when it is
sealed, so that a repeat of the same (boot, seq) is always the same message. The service refuses a bad
sample or metric and accepts the rest; so does `sift`, on the device, where its author sees the error. Names are chosen
by the program, so a wrong one is an error; values come from sensors, so a wrong one drops its metric only.
"""

import json
import math
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from karma_device.clock import is_possible
from karma_device.errors import SampleInvalid
from karma_device.store import Number

MetricValue: TypeAlias = float | int | bool

MAX_MESSAGE_BYTES = 128 * 1024
"""AWS IoT's hard limit for one message."""
MAX_SPAN_MS = 3_600_000
"""Longest time that one message covers, in ms: the service stores messages by hours, so a longer one costs more."""

MAX_METRICS = 64
"""Metrics in one sample at the most."""
MAX_NAME_CHARS = 64

_UNSEEN = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff"
_METRIC_NAME = re.compile(rf"[^ {_UNSEEN}](?:[^{_UNSEEN}]{{0,62}}[^ {_UNSEEN}])?")
_MAX_MAGNITUDE = 1e300
_MAX_SAFE_INTEGER = 2**53
_STAND_IN_BYTES = 32
"""Bytes of the boot name that stands in for the own one while no numbers can be reserved."""
_MAX_SETTINGS = 16
"""Settings of the clock whose confirmed samples are remembered apart."""
_ENVELOPE_BYTES = len(b'{"boot":"","seq":18446744073709551615,"samples":[]}')


@dataclass(frozen=True)
class Batch:
    """One sealed telemetry message."""

    seq: int
    payload: bytes
    samples: int
    own_times: bool = False
    """Whether the device's clock gave every sample its time."""

    def set_by(self, by: int, *, now_ms: int) -> "Batch":
        """Return the message with the times that its samples have by a clock that was set by `by` ms."""
        body = json.loads(self.payload)
        for sample in body["samples"]:
            sample["ts"] = _set_by(sample["ts"], by, own=self.own_times, now_ms=now_ms)
        return replace(self, payload=json.dumps(body, separators=(",", ":")).encode())


@dataclass(frozen=True)
class Sample:
    """One encoded sample: its time and its bytes inside the message."""

    ts: int
    encoded: bytes
    own_time: bool = False
    """Whether the device's clock gave it its time, not the program."""

    def set_by(self, by: int, *, now_ms: int) -> "Sample":
        """Return the sample with the time that it has by a clock that was set by `by` ms."""
        ts = _set_by(self.ts, by, own=self.own_time, now_ms=now_ms)
        rest = self.encoded.partition(b",")[2]
        return replace(self, ts=ts, encoded=b'{"ts":%d,' % ts + rest)


def _set_by(ts: int, by: int, *, own: bool, now_ms: int) -> int:
    """Correct one time. One that the program gave stays unless it is impossible: it may come from a better clock."""
    # Perhaps negative, by a clock that is set wrong: so that it is exact again when the clock is set back.
    return ts + by if own or not is_possible(ts, now_ms=now_ms) else ts


def encode_sample(
    metrics: Mapping[str, MetricValue], ts: int, *, max_bytes: int = MAX_MESSAGE_BYTES, own_time: bool = False
) -> Sample:
    """Encode one sample.

    Args:
        metrics: 1 to 64 values by metric name; true and false are sent as 1 and 0, since the service stores numbers.
        ts: Unix time in ms.
        max_bytes: Largest encoded size.
        own_time: Whether the device's clock gave `ts`.

    Raises:
        SampleInvalid: Too few or too many metrics, a bad name, a value that JSON cannot carry exactly, or too large.
    """
    if not _is_milliseconds(ts):
        raise SampleInvalid(f"ts is Unix time in ms, not {ts!r}")
    if not 1 <= len(metrics) <= MAX_METRICS:
        raise SampleInvalid(f"a sample has 1 to {MAX_METRICS} metrics, not {len(metrics)}")
    values, bad = sift(metrics)
    if bad:
        raise SampleInvalid("; ".join(bad.values()))
    encoded = json.dumps({"ts": ts, "m": values}, separators=(",", ":")).encode()
    if len(encoded) > max_bytes:
        raise SampleInvalid(f"a sample of {len(encoded)} bytes exceeds {max_bytes}")
    return Sample(ts=ts, encoded=encoded, own_time=own_time)


def sift(metrics: Mapping[str, MetricValue]) -> tuple[dict[str, float | int], dict[str, str]]:
    """Separate values that the service can store from those that it cannot, with an error message for each of these.

    Names come out as the service keeps them (Unicode NFC). Of a metric that is there in two spellings the last counts.

    Raises:
        SampleInvalid: A name that no metric can have, or more than 64 metrics.
    """
    if len(metrics) > MAX_METRICS:
        raise SampleInvalid(f"a sample has 1 to {MAX_METRICS} metrics, not {len(metrics)}")
    good: dict[str, float | int] = {}
    bad: dict[str, str] = {}
    for given, value in metrics.items():
        name = _name(given)
        if wrong := _what_is_wrong(value):
            bad[name] = f"metric {name} {wrong}"
            continue
        if name in good:
            bad[name] = f"metric {name} is there in two spellings; the last counts"
        good[name] = int(value) if isinstance(value, bool) else value
    return good, bad


def _is_milliseconds(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SAFE_INTEGER


def _name(name: object) -> str:
    if not isinstance(name, str) or not _METRIC_NAME.fullmatch(name):
        raise SampleInvalid(
            f"metric name {name!r} is not 1 to {MAX_NAME_CHARS} characters without control characters and blank ends"
        )
    return unicodedata.normalize("NFC", name)


def _what_is_wrong(value: object) -> str:
    if not isinstance(value, int | float):
        return f"is {type(value).__name__}; a number or bool is expected"
    if isinstance(value, int) and abs(value) > _MAX_SAFE_INTEGER:
        return "is beyond 2**53 and would lose digits"
    if not math.isfinite(value) or abs(value) > _MAX_MAGNITUDE:
        return f"is {value}; a finite number up to {_MAX_MAGNITUDE:g} is expected"
    return ""


class Sieve:
    """Drops values that `sift` refuses, counts them, and reports a metric when that begins. Not thread-safe."""

    def __init__(self) -> None:
        self._dropping: set[str] = set()
        self.dropped = 0

    def take(self, metrics: Mapping[str, MetricValue]) -> tuple[dict[str, float | int], list[str]]:
        """Return the good values, and error messages for bad ones whose metric was good before.

        Raises:
            SampleInvalid: As `sift`.
        """
        good, bad = sift(metrics)
        fresh = [wrong for name, wrong in bad.items() if name not in self._dropping]
        self._dropping -= good.keys() - bad.keys()
        self._dropping |= bad.keys()
        self.dropped += len(bad)
        return good, fresh


class Batcher:
    """Collects samples until a message is full, old or spans too long. Not thread-safe; the caller holds a lock.

    A message stays within `target_bytes` unless a single sample is larger by itself; it never exceeds
    `MAX_MESSAGE_BYTES`.
    """

    def __init__(self, *, boot: str, target_bytes: int, max_samples: int, max_age_s: float) -> None:
        self._overhead = _ENVELOPE_BYTES + max(len(boot.encode()), _STAND_IN_BYTES)
        self._target_bytes = target_bytes
        self._max_samples = max_samples
        self._max_age_s = max_age_s
        self._samples: list[Sample] = []
        self._size = self._overhead
        self._min_ts = 0
        self._max_ts = 0
        self._opened_at = 0.0

    @property
    def samples(self) -> int:
        """Return the number of samples in the open message."""
        return len(self._samples)

    @property
    def max_sample_bytes(self) -> int:
        """Return the largest encoded sample, in bytes, that one message can carry."""
        return MAX_MESSAGE_BYTES - self._overhead

    @property
    def due_at(self) -> float | None:
        """Return the monotonic time at which the open message is old enough to be sealed; None while it is empty."""
        return self._opened_at + self._max_age_s if self._samples else None

    def fits(self, sample: Sample) -> bool:
        """Say whether the sample can join the open message."""
        if not self._samples:
            return True
        span = max(self._max_ts, sample.ts) - min(self._min_ts, sample.ts)
        return (
            len(self._samples) < self._max_samples
            and span <= MAX_SPAN_MS
            and self._size + len(sample.encoded) + 1 <= self._target_bytes
        )

    def add(self, sample: Sample, *, now: float) -> None:
        """Add a sample that `fits`; `now` is monotonic time."""
        if not self._samples:
            self._opened_at = now
            self._min_ts = self._max_ts = sample.ts
        else:
            self._min_ts = min(self._min_ts, sample.ts)
            self._max_ts = max(self._max_ts, sample.ts)
        self._samples.append(sample)
        self._size += len(sample.encoded) + 1

    def set_by(self, by: int, *, now_ms: int) -> int:
        """Correct the times of the open message for a clock that was set by `by` ms; return how many changed."""
        old, self._samples = self._samples, []
        opened_at, self._size = self._opened_at, self._overhead
        for sample in old:
            self.add(sample.set_by(by, now_ms=now_ms), now=opened_at)
        return sum(a.ts != b.ts for a, b in zip(old, self._samples, strict=True))

    def is_full(self) -> bool:
        """Say whether the open message should go now because nothing useful fits any more."""
        return bool(self._samples) and (len(self._samples) >= self._max_samples or self._size >= self._target_bytes)

    def seal(self, number: Number) -> Batch | None:
        """Close the open message under its number; None if there is nothing in it."""
        if not self._samples:
            return None
        head = f'{{"boot":{json.dumps(number.boot)},"seq":{number.seq},"samples":['.encode()
        batch = Batch(
            seq=number.seq,
            payload=head + b",".join(each.encoded for each in self._samples) + b"]}",
            samples=len(self._samples),
            own_times=all(each.own_time for each in self._samples),
        )
        self._samples = []
        self._size = self._overhead
        return batch


class TelemetryBuffer:
    """Sealed messages that have no PUBACK yet, oldest first, bounded in bytes. Not thread-safe.

    When it is full the oldest message that is not on the wire is dropped and counted: for a device that was offline
    for long, the recent past is worth more than the distant one.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._batches: OrderedDict[int, Batch] = OrderedDict()
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self._sent: dict[int, int] = {}
        """Messages that were sent, each with the milliseconds by which the clock had been set then."""
        self._bytes = 0
        self._set_by = 0
        """Ms by which the clock has been set since the start."""
        self._published: dict[int, int] = {}
        """Samples that the broker confirmed, by `_set_by` when they were sent."""
        self._dropped_samples = 0
        self.dropped_batches = 0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def samples(self) -> int:
        """Return the number of samples in the buffer."""
        return sum(batch.samples for batch in self._batches.values())

    @property
    def dropped_samples(self) -> int:
        """Return the samples that were dropped, and those that went out with times that the present clock rules out.

        The service refuses the latter, but which of two clocks is right only the next setting shows: a clock that is
        set wrong and back takes nothing from what was sent before.
        """
        return self._dropped_samples + sum(map(self._refused, self._published))

    def _refused(self, set_by: int) -> int:
        """Return the confirmed samples of one setting of the clock, if the present one rules their times out."""
        return 0 if is_possible(set_by - self._set_by, now_ms=0) else self._published[set_by]

    @property
    def size_bytes(self) -> int:
        """Return the payload bytes in the buffer."""
        return self._bytes

    def push(self, batch: Batch) -> None:
        """Append a message, dropping the oldest waiting ones as needed."""
        self._batches[batch.seq] = batch
        self._waiting[batch.seq] = None
        self._bytes += len(batch.payload)
        while self._bytes > self._max_bytes and len(self._waiting) > 1:
            self._drop(next(iter(self._waiting)))

    def take(self) -> Batch | None:
        """Return the oldest waiting message, which stays in the buffer until `confirm`, `release_all` or `reject`."""
        if not self._waiting:
            return None
        seq, _ = self._waiting.popitem(last=False)
        self._sent.setdefault(seq, self._set_by)
        return self._batches[seq]

    def confirm(self, seq: int) -> None:
        """Remove a message that the broker has confirmed."""
        set_by = self._sent.get(seq, self._set_by)
        batch = self._remove(seq)
        if batch is not None:
            self._published[set_by] = self._published.get(set_by, 0) + batch.samples

    def _remove(self, seq: int) -> Batch | None:
        batch = self._batches.pop(seq, None)
        self._waiting.pop(seq, None)
        self._sent.pop(seq, None)
        if batch is not None:
            self._bytes -= len(batch.payload)
        return batch

    def reject(self, seq: int) -> None:
        """Drop and count a message that the broker refuses permanently."""
        if seq in self._batches:
            self._drop(seq)

    def release_all(self) -> None:
        """Let every unconfirmed message wait again, oldest first, after a connection broke."""
        self._waiting = OrderedDict.fromkeys(self._batches)

    def set_by(self, by: int, *, now_ms: int) -> tuple[int, int]:
        """Correct times for a clock that was set by `by` ms; return the samples that have other times, and those lost.

        What was never sent is written anew. What was sent keeps its bytes, since the service may have them; it refuses
        impossible times. The number lost is negative when a clock that was set wrong is set back.
        """
        lost = self.dropped_samples
        self._set_by += by
        while len(self._published) > _MAX_SETTINGS:
            oldest = next(iter(self._published))
            self._dropped_samples += self._refused(oldest)
            del self._published[oldest]
        changed = 0
        for seq in self._batches.keys() - self._sent.keys():
            old = self._batches[seq]
            new = old.set_by(by, now_ms=now_ms)
            changed += new.samples if new.payload != old.payload else 0
            self._batches[seq] = new
            self._bytes += len(new.payload) - len(old.payload)
            if len(new.payload) > MAX_MESSAGE_BYTES:  # a time of today has more digits than one of 1970
                self._drop(seq)
        return changed, self.dropped_samples - lost

    def _drop(self, seq: int) -> None:
        batch = self._batches[seq]
        self._remove(seq)
        self.dropped_batches += 1
        self._dropped_samples += batch.samples

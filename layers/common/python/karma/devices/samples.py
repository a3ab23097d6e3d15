"""Reading of telemetry messages, sample by sample and metric by metric.

Only the part that cannot be read is refused: the metric of a value that is no finite number, a sample without a time.
The reasons are WRONG_SHAPE, WRONG_VALUE, WRONG_NAME, TOO_DEEP and REPEATED (an earlier spelling of a metric that the
same sample has again: the last counts, as for a member that JSON itself repeats, which no reader shows). These do not
depend on when the message came. The others do:

TOO_OLD   the sample's hour ended before the time for which raw telemetry is kept
FUTURE    the sample's time is further ahead of ours than the clock's tolerance
SPAN      the message holds samples of more than 24 different hours: of the oldest of them

Samples are stored by UTC hour. The key of an hour (its first readable sample, boot, sequence) and its digest are made
of all readable samples, those of the future included, and an hour is too old as a whole: so they are the same at each
delivery, however much later it comes, and what was stored first stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from karma.core import freeform
from karma.core.lines import NEVER
from karma.core.records import Record
from karma.devices.domain import MAX_FUTURE_S, RAW_RETENTION_S, Reading
from karma.devices.payloads import (
    MAX_SEQ,
    MAX_TS_MS,
    Refused,
    Unreadable,
    is_dated_before,
    read_boot,
    read_integer,
    read_object,
)

MAX_SAMPLES: Final = 3_000
MAX_METRICS_A_SAMPLE: Final = 64
MAX_HOURS: Final = 24
"""Largest number of hours in a message: each is a write."""
MAX_MAGNITUDE: Final = 1e300
MAX_METRIC_CHARS: Final = 64
_HOUR_MS: Final = 3_600_000
_NAMED_CHARS: Final = 80

_UNSEEN = rf"{NEVER}\ufeff\ud800-\udfff\ufffe\uffff"
METRIC: Final = re.compile(rf"[^ {_UNSEEN}](?:[^{_UNSEEN}]{{0,62}}[^ {_UNSEEN}])?")
"""Pattern of a metric's name: 1 to 64 characters, no blank at either end; no controls, line ends, changes of direction,
halves of a surrogate.
"""

# Fleets use few names: each is matched once a process. Bounded, so that a hostile device cannot fill the memory.
_known_metrics: set[str] = set()
_MAX_KNOWN_METRICS = 4096


class _Sample(NamedTuple):
    """A readable sample, and its place in the message."""

    ts: int
    place: int
    values: dict[str, float]


class Batch(Record):
    """The samples of one hour of a message, sorted by time."""

    boot: str
    seq: int
    min_ts: int
    max_ts: int
    count: int
    samples_json: bytes
    """`[[ts, {metric: value}], ...]`."""
    digest: str
    """SHA-256 of all readable samples of the hour, those of the future included."""
    newest: Mapping[str, Reading]
    """Newest value of each metric; its time is not after the arrival of the message."""


class StoredBatch(NamedTuple):
    """A batch as it is stored."""

    min_ts: int
    samples: list[tuple[int, dict[str, float]]]
    units: int
    """Begun kilobytes of the samples."""
    sk: str = ""
    """Key of the batch within its device: first sample, boot and sequence."""


class StoredItem(NamedTuple):
    """A batch as the table has it."""

    sk: str
    samples: bytes
    """JSON."""
    units: int
    owner: str
    """Account that had the device; "": the batch is of an earlier release."""


class Telemetry(Record):
    """Batches of a message, and the parts that were refused."""

    batches: tuple[Batch, ...]
    refused: tuple[Refused, ...]
    is_cut: bool = False
    """True: samples of before the device changed hands were left out."""


def metric_name(given: str) -> str | None:
    """Return the name under which a metric is stored (Unicode NFC); None: it is no valid name."""
    return unicodedata.normalize("NFC", given) if METRIC.fullmatch(given) else None


def read_telemetry(payload: bytes, *, received_ms: int, since_ms: int = 0) -> Telemetry:
    """Read a message of samples, received at a moment in milliseconds.

    What was measured before `since_ms` is another account's: it is left out, what is wrong with it goes unnamed, and it
    may leave nothing.

    Raises:
        Unreadable: no part of the message can be used.
    """
    body = read_object(payload)
    boot, seq = read_boot(body), read_integer(body, "seq", MAX_SEQ)
    raw = body.get("samples")
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_SAMPLES:
        raise Unreadable("WRONG_SHAPE", "samples")
    refused: list[Refused] = []
    wrong_of_before: list[Refused] = []
    samples: list[_Sample] = []
    is_cut = False
    for place, given in enumerate(raw):
        is_before = is_dated_before(given, since_ms)
        is_cut |= is_before
        sample = _read_sample(place, given, wrong_of_before if is_before else refused)
        if sample is not None:
            samples.append(sample)
    samples.sort(key=lambda sample: sample.ts)
    hours: dict[int, list[_Sample]] = {}
    for sample in samples:
        hours.setdefault(sample.ts // _HOUR_MS, []).append(sample)
    batches: list[Batch] = []
    for hour in sorted(hours, reverse=True):
        if (hour + 1) * _HOUR_MS <= received_ms - RAW_RETENTION_S * 1000:
            refused += [Refused(f"samples[{each.place}].ts", "TOO_OLD") for each in hours[hour] if each.ts >= since_ms]
            continue
        taken = [each for each in hours[hour] if each.ts <= received_ms + MAX_FUTURE_S * 1000]
        refused += [Refused(f"samples[{each.place}].ts", "FUTURE") for each in hours[hour][len(taken) :]]
        taken = [each for each in taken if each.ts >= since_ms]
        if taken and len(batches) == MAX_HOURS:
            refused += [Refused(f"samples[{each.place}].ts", "SPAN") for each in taken]
        elif taken:
            batches.append(_batch(boot, seq, hours[hour], taken, received_ms))
    if not (batches or is_cut):
        raise Unreadable(refused[0].reason, refused[0].field, refused)
    return Telemetry(tuple(reversed(batches)), tuple(refused), is_cut)


def _read_sample(place: int, given: Any, refused: list[Refused]) -> _Sample | None:
    if not isinstance(given, dict):
        refused.append(Refused(f"samples[{place}]", "WRONG_SHAPE"))
        return None
    ts, values = given.get("ts"), given.get("m")
    if type(ts) is not int or not 0 <= ts <= MAX_TS_MS:
        refused.append(Refused(f"samples[{place}].ts", "WRONG_VALUE"))
        return None
    if not isinstance(values, dict) or not 1 <= len(values) <= MAX_METRICS_A_SAMPLE:
        refused.append(Refused(f"samples[{place}].m", "WRONG_SHAPE"))
        return None
    for name, value in values.items():
        # bool is an int to Python, not to a meter. NaN is in no range.
        if (
            name not in _known_metrics
            or (type(value) is not float and type(value) is not int)
            or not -MAX_MAGNITUDE <= value <= MAX_MAGNITUDE
        ):
            break
    else:
        return _Sample(ts, place, values)
    kept = _read_metrics(place, values, refused)
    return _Sample(ts, place, kept) if kept else None


def _read_metrics(place: int, values: dict[str, Any], refused: list[Refused]) -> dict[str, float]:
    kept: dict[str, float] = {}
    spelled: dict[str, str] = {}
    for given, value in values.items():
        name = metric_name(given)
        reason = ""
        if name is None:
            reason = "WRONG_NAME"
        elif freeform.is_deeper(value):
            reason = "TOO_DEEP"
        elif (type(value) is not float and type(value) is not int) or not -MAX_MAGNITUDE <= value <= MAX_MAGNITUDE:
            reason = "WRONG_VALUE"
        if name is None or reason:
            refused.append(Refused(_member(place, given), reason))
            continue
        if name in spelled:
            refused.append(Refused(_member(place, spelled[name]), "REPEATED"))
        kept[name], spelled[name] = value, given
        if name == given and len(_known_metrics) < _MAX_KNOWN_METRICS:
            _known_metrics.add(name)
    return kept


def _member(place: int, given: str) -> str:
    return f"samples[{place}].m[{json.dumps(given[:_NAMED_CHARS])}]"


def _batch(boot: str, seq: int, readable: list[_Sample], taken: list[_Sample], received_ms: int) -> Batch:
    newest: dict[str, Reading] = {}
    for sample in reversed(taken):
        for name, value in sample.values.items():
            old = newest.get(name)
            if old is None or (old.ts == sample.ts and old.value < value):
                newest[name] = Reading(value, sample.ts)
    # A clock that is ahead within its tolerance must not hide what comes after it is set right.
    shown = {name: Reading(each.value, min(each.ts, received_ms)) for name, each in newest.items()}
    encoded = orjson.dumps([(each.ts, each.values) for each in taken])
    everything = encoded if len(taken) == len(readable) else orjson.dumps([(each.ts, each.values) for each in readable])
    digest = hashlib.sha256(everything).hexdigest()
    return Batch(boot, seq, readable[0].ts, taken[-1].ts, len(taken), encoded, digest, shown)

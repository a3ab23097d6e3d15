"""Items of figures in the table `agents`, and their keys.

| item | pk | sk | expires_at |
|---|---|---|---|
| figures of an hour, of an account's runs of an agent | USER#<user>#METRICS | AGENT#<agent>#<hour> | KEPT after it |
| of all runs of an agent | METRICS#AGENT#<agent> | HOUR#<hour> | KEPT after it |
| of all runs | METRICS#ALL | HOUR#<hour> | KEPT after it |
| sums since counting began | METRICS#ALL | TOTAL | |
| what of a run was counted | METRICS#RUN#<digest of user and run> | MARK | MARK_KEPT after it was |

A mark names nobody: it outlives a deleted account for a while, so that records of the stream that come again then count
nothing.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.ids import UserId
from karma.metrics.domain import Cell, Series
from karma.runs.domain import RunKey

MARK_KEPT: Final = timedelta(days=60)
"""Longer than a run lasts, pauses included, and than its records come again: a day by the stream, fourteen days by the
queue of its failures."""
TOTAL_KEY: Final = Key("METRICS#ALL", "TOTAL")


def owned_pk(user_id: UserId) -> str:
    """Return the partition with the figures of an account."""
    return f"USER#{user_id}#METRICS"


def series_key(series: Series, tail: str = "") -> Key:
    """Return the partition of a series, and the sort key of an hour of it, or the beginning of all hours."""
    if series.user_id is not None:
        return Key(owned_pk(series.user_id), f"AGENT#{series.agent_id}#{tail}")
    return Key("METRICS#ALL" if series.agent_id is None else f"METRICS#AGENT#{series.agent_id}", f"HOUR#{tail}")


def cell_key(cell: Cell) -> Key:
    """Return the key of a series' figures in an hour."""
    return series_key(cell.series, iso(cell.hour))


def parse_hour(sk: str) -> datetime:
    """Return the hour of a sort key that `cell_key` made."""
    return parse_iso(sk.rpartition("#")[2])


def mark_key(key: RunKey) -> Key:
    """Return the key of the mark of a run."""
    digest = hashlib.sha256(f"{key.user_id}#{key.run_id}".encode()).hexdigest()
    return Key(f"METRICS#RUN#{digest}", "MARK")


class MetricsItem(Item):
    """Base of the items of figures."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "agents"


class _Sums:
    completed = NumberAttribute(default=0)
    interrupted = NumberAttribute(default=0)
    failed = NumberAttribute(default=0)
    cancelled = NumberAttribute(default=0)
    tokens = NumberAttribute(default=0)
    input_tokens = NumberAttribute(default=0)
    cached_tokens = NumberAttribute(default=0)
    cost_micros = NumberAttribute(default=0)
    unpriced = NumberAttribute(default=0)
    duration_ms = NumberAttribute(default=0)
    bucket_0 = NumberAttribute(default=0)
    bucket_1 = NumberAttribute(default=0)
    bucket_2 = NumberAttribute(default=0)
    bucket_3 = NumberAttribute(default=0)
    bucket_4 = NumberAttribute(default=0)
    bucket_5 = NumberAttribute(default=0)
    bucket_6 = NumberAttribute(default=0)
    bucket_7 = NumberAttribute(default=0)
    bucket_8 = NumberAttribute(default=0)
    bucket_9 = NumberAttribute(default=0)
    bucket_10 = NumberAttribute(default=0)
    bucket_11 = NumberAttribute(default=0)


class MetricHourItem(_Sums, MetricsItem, discriminator="metric_hour"):
    """Figures of a series in an hour."""


class MetricTotalItem(_Sums, MetricsItem, discriminator="metric_total"):
    """Figures of all runs since counting began."""

    active = NumberAttribute(default=0)


class RunMarkItem(MetricsItem, discriminator="metric_mark"):
    """The part of a run that was counted."""

    stage = UnicodeAttribute()

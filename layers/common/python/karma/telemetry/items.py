"""Items of rollups in the table `telemetry`, beside the batches of `karma.devices`, and their keys.

| item | pk | sk | expires_at |
|---|---|---|---|
| directory: the metrics that are rolled up | TELEMETRY#<device> | DIRECTORY | while closed |
| mark of a dirty hour or day, gsi1 by when it is due | TELEMETRY#<device> | DIRTY#<H or D>#<number> | |
| mark of a day that is to be archived, gsi1 as above | TELEMETRY#<device> | LATER#<number> | |
| archived day | TELEMETRY#<device> | ARCHIVED#<number> | as long as the plan keeps it |
| rollup of an hour | TELEMETRY#<device> | HOUR#<metric>#<number> | HOURS_KEPT after it |
| rollup of a day | TELEMETRY#<device> | DAY#<metric>#<number> | DAYS_KEPT after it |

Hours and days are numbered from 1970, metrics as the directory numbers them: their names, which may be anything, stand
in no key. MetricDirectory and marks are neighbours, so that one Query says which metrics there are and what is dirty.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from pynamodb.attributes import BinaryAttribute, BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.ids import DeviceId
from karma.telemetry.domain import Level, Period

HOURS_KEPT: Final = timedelta(days=400)
DAYS_KEPT: Final = timedelta(days=5 * 366)
KEPT: Final[Mapping[Level, timedelta]] = {Level.HOUR: HOURS_KEPT, Level.DAY: DAYS_KEPT}

DIRECTORY: Final = "DIRECTORY"
DIRTY_PREFIX: Final = "DIRTY#"
DUE_SHARDS: Final = 4


def device_pk(device_id: DeviceId) -> str:
    """Return the partition of a device's rollups."""
    return f"TELEMETRY#{device_id}"


def directory_key(device_id: DeviceId) -> Key:
    """Return the key of a device's directory."""
    return Key(device_pk(device_id), DIRECTORY)


def dirty_key(period: Period) -> Key:
    """Return the key of the mark of a dirty hour or day."""
    if period.level is Level.ARCHIVE:
        # Not among those that every read of the directory brings: it stands for a month.
        return Key(device_pk(period.device_id), f"LATER#{period.number:07d}")
    return Key(device_pk(period.device_id), f"{DIRTY_PREFIX}{period.level[0].upper()}#{period.number:07d}")


def archived_sk(number: int) -> str:
    """Return the sort key of an archived day."""
    return f"ARCHIVED#{number:07d}"


def archived_key(device_id: DeviceId, number: int) -> Key:
    """Return the key of an archived day."""
    return Key(device_pk(device_id), archived_sk(number))


def rollup_sk(level: Level, metric: int, number: int) -> str:
    """Return the sort key of a rollup; a metric's follow each other in time."""
    return f"{level.upper()}#{metric:03d}#{number:07d}"


def rollup_key(period: Period, metric: int) -> Key:
    """Return the key of the rollup of a metric."""
    return Key(device_pk(period.device_id), rollup_sk(period.level, metric, period.number))


def due_partition(shard: int) -> str:
    """Return a partition of gsi1 with marks by when they are due."""
    return f"DIRTY#{shard}"


def shard_of(device_id: DeviceId) -> int:
    """Return the part of the index that has a device's marks."""
    return int(device_id.replace("-", "")[-4:], 16) % DUE_SHARDS


class RollupsItem(Item):
    """Base of the items of rollups."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "telemetry"


class DirectoryItem(RollupsItem, discriminator="telemetry_directory"):
    """Metrics of a device that are rolled up."""

    metrics = JSONAttribute(default=list)
    """Their names; the place of a name is its number."""
    closed = BooleanAttribute(default=False)


class DirtyItem(RollupsItem, discriminator="telemetry_dirty"):
    """Mark of an hour or a day whose rollups are to be computed again."""

    device_id = UnicodeAttribute()
    level = UnicodeAttribute()
    number = NumberAttribute()
    token = UnicodeAttribute()
    """Replaced by each change, so that whoever removes the mark knows that nothing came since it read the samples."""


class RollupItem(RollupsItem, discriminator="telemetry_rollup"):
    """Rollup of a metric in an hour or a day."""

    rows = BinaryAttribute(legacy_encoding=False)
    """JSON `[[place, samples, least, greatest, total, last], ...]`; places count minutes of an hour, or hours of a day.
    """
    sketch = BinaryAttribute(legacy_encoding=False)
    """JSON, as karma.telemetry.sketch writes it."""


class ArchivedItem(RollupsItem, discriminator="telemetry_archived"):
    """Note of a day whose raw batches are archived."""

    name = UnicodeAttribute()
    """Name of the object (karma.telemetry.archives)."""
    hours = JSONAttribute()
    """`[[hour, offset, size], ...]`."""
    kept_days = NumberAttribute()
    replaced = UnicodeAttribute(null=True)

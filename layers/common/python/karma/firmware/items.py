"""Items of firmware in the table `devices`, and what they mean; docs/adr/0064 has the access patterns.

| item | pk | sk | gsi1pk | gsi1sk |
|---|---|---|---|---|
| release | FIRMWARE#<user> | RELEASE#<release> | - | - |
| version that a release has | FIRMWARE#<user> | VERSION#<version> | - | - |
| rollout | FIRMWARE#<user> | ROLLOUT#<rollout> | - | - |
| fleet: number of releases, open rollouts | FIRMWARE#<user> | FLEET | - | - |
| made for an Idempotency-Key | FIRMWARE#<user> | REQUEST#<token> | - | - |
| batch | ROLLOUT#<rollout> | BATCH#<number> | - | - |
| the next look after a rollout | ROLLOUT#<rollout> | LOOK | ROLLOUTS#DUE#<part> | <when>#<rollout> |

Ids sort by time, so the lists by age are the order of the keys.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, cast

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute, UnicodeSetAttribute

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import DeviceId, UserId
from karma.firmware.domain import (
    RETENTION,
    Release,
    ReleaseId,
    ReleaseState,
    Rollout,
    RolloutBatch,
    RolloutId,
    RolloutState,
    RolloutTarget,
    TargetState,
)

DUE: Final = "ROLLOUTS"
"""Kind of what is due."""
RELEASE: Final = "RELEASE#"
ROLLOUT: Final = "ROLLOUT#"
BATCH: Final = "BATCH#"


def owner_pk(user_id: UserId) -> str:
    """Return the partition of an account's releases and rollouts."""
    return f"FIRMWARE#{user_id}"


def rollout_pk(rollout_id: RolloutId) -> str:
    """Return the partition of a rollout's batches."""
    return f"ROLLOUT#{rollout_id}"


def release_key(user_id: UserId, release_id: str) -> Key:
    """Return the key of a release."""
    return Key(owner_pk(user_id), f"{RELEASE}{release_id}")


def version_key(user_id: UserId, version: str) -> Key:
    """Return the key of the claim of a version."""
    return Key(owner_pk(user_id), f"VERSION#{version}")


def rollout_key(user_id: UserId, rollout_id: str) -> Key:
    """Return the key of a rollout."""
    return Key(owner_pk(user_id), f"{ROLLOUT}{rollout_id}")


def fleet_key(user_id: UserId) -> Key:
    """Return the key of what an account's releases and rollouts share."""
    return Key(owner_pk(user_id), "FLEET")


def batch_key(rollout_id: RolloutId, number: int) -> Key:
    """Return the key of a batch."""
    return Key(rollout_pk(rollout_id), f"{BATCH}{number:04d}")


def look_key(rollout_id: RolloutId) -> Key:
    """Return the key of the next look after a rollout."""
    return Key(rollout_pk(rollout_id), "LOOK")


class FirmwareItem(Item):
    """Base of what firmware keeps in the table `devices`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "devices"


class ReleaseItem(FirmwareItem, discriminator="firmware_release"):
    """A release."""

    release_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    state = UnicodeAttribute()
    release_version = UnicodeAttribute()
    models = JSONAttribute()
    size = NumberAttribute()
    sha256 = UnicodeAttribute()
    rollback_index = NumberAttribute()
    manifest = UnicodeAttribute()
    signature = UnicodeAttribute()
    public_key = UnicodeAttribute()
    published_at = UnicodeAttribute(null=True)


class ReleaseVersionItem(FirmwareItem, discriminator="firmware_version"):
    """The claim of a version by a release."""

    release_id = UnicodeAttribute()


class FirmwareRequestItem(RequestAttributes, FirmwareItem, discriminator="firmware_request"):
    """The release or rollout that a request with an Idempotency-Key has created."""


class FleetItem(FirmwareItem, discriminator="firmware_fleet"):
    """Counts and links that an account's releases and rollouts share."""

    releases = NumberAttribute(default=0)
    open = UnicodeSetAttribute(null=True)


class RolloutItem(FirmwareItem, discriminator="firmware_rollout"):
    """A rollout."""

    rollout_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    release_id = UnicodeAttribute()
    release_version = UnicodeAttribute()
    rollback_of = UnicodeAttribute(null=True)
    state = UnicodeAttribute()
    reason = UnicodeAttribute(null=True)
    waves = JSONAttribute()
    wave = NumberAttribute()
    wave_began_at = UnicodeAttribute()
    wave_hours = NumberAttribute()
    abort_percent = NumberAttribute()
    abort_min_finished = NumberAttribute()
    timeout_minutes = NumberAttribute()
    round = NumberAttribute()
    judged_from = NumberAttribute()
    size = NumberAttribute()
    changed_at = UnicodeAttribute()


class RolloutBatchItem(FirmwareItem, discriminator="firmware_batch"):
    """Devices of a rollout that have jobs together."""

    rollout_id = UnicodeAttribute()
    number = NumberAttribute()
    wave = NumberAttribute()
    targets = JSONAttribute()
    """`[[device id, serial number, version before, state, round, note, the failure before it, if any], ...]`."""


class RolloutLookItem(FirmwareItem, discriminator="firmware_look"):
    """A rollout that is looked after."""

    user_id = UnicodeAttribute()
    rollout_id = UnicodeAttribute()


def release_item(release: Release) -> ReleaseItem:
    """Return the item of a release."""
    return ReleaseItem(
        *release_key(release.user_id, release.id),
        release_id=release.id,
        user_id=release.user_id,
        state=release.state.value,
        release_version=release.release_version,
        models=list(release.models),
        size=release.size,
        sha256=release.sha256,
        rollback_index=release.rollback_index,
        manifest=release.manifest,
        signature=release.signature,
        public_key=release.public_key,
        published_at=iso(release.published_at) if release.published_at else None,
        created_at=iso(release.created_at),
        updated_at=iso(release.updated_at),
    )


def release_of(item: ReleaseItem) -> Release:
    """Return the release of an item."""
    return Release(
        id=ReleaseId(item.release_id),
        user_id=UserId(item.user_id),
        state=ReleaseState(item.state),
        release_version=item.release_version,
        models=tuple(cast("list[str]", item.models)),
        size=int(item.size),
        sha256=item.sha256,
        rollback_index=int(item.rollback_index),
        manifest=item.manifest,
        signature=item.signature,
        public_key=item.public_key,
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        published_at=parse_iso(item.published_at) if item.published_at else None,
        version=int(item.version or 0),
    )


def rollout_item(rollout: Rollout) -> RolloutItem:
    """Return the item of a rollout."""
    return RolloutItem(
        *rollout_key(rollout.user_id, rollout.id),
        rollout_id=rollout.id,
        user_id=rollout.user_id,
        release_id=rollout.release_id,
        release_version=rollout.release_version,
        rollback_of=rollout.rollback_of,
        state=rollout.state.value,
        reason=rollout.reason or None,
        waves=list(rollout.waves),
        wave=rollout.wave,
        wave_began_at=iso(rollout.wave_began_at),
        wave_hours=rollout.wave_hours,
        abort_percent=rollout.abort_percent,
        abort_min_finished=rollout.abort_min_finished,
        timeout_minutes=rollout.timeout_minutes,
        round=rollout.round,
        judged_from=rollout.judged_from,
        size=rollout.size,
        changed_at=iso(rollout.changed_at),
        created_at=iso(rollout.created_at),
        updated_at=iso(rollout.updated_at),
        expires_at=expiry(rollout.created_at),
    )


def rollout_of(item: RolloutItem) -> Rollout:
    """Return the rollout of an item."""
    return Rollout(
        id=RolloutId(item.rollout_id),
        user_id=UserId(item.user_id),
        release_id=ReleaseId(item.release_id),
        release_version=item.release_version,
        rollback_of=RolloutId(item.rollback_of) if item.rollback_of else None,
        state=RolloutState(item.state),
        reason=item.reason or "",
        waves=tuple(cast("list[int]", item.waves)),
        wave=int(item.wave),
        wave_began_at=parse_iso(item.wave_began_at),
        wave_hours=int(item.wave_hours),
        abort_percent=int(item.abort_percent),
        abort_min_finished=int(item.abort_min_finished),
        timeout_minutes=int(item.timeout_minutes),
        round=int(item.round),
        judged_from=int(item.judged_from),
        size=int(item.size),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        changed_at=parse_iso(item.changed_at),
        version=int(item.version or 0),
    )


def targets_json(batch: RolloutBatch) -> list[list[Any]]:
    """Return the devices of a batch as they are stored."""
    return [
        [each.device_id, each.serial, each.from_version, each.state.value, each.round, each.note]
        + ([each.failed_as.value] if each.failed_as is not None else [])
        for each in batch.targets
    ]


def batch_item(batch: RolloutBatch, *, created_at: datetime) -> RolloutBatchItem:
    """Return the item of a new batch."""
    return RolloutBatchItem(
        *batch_key(batch.rollout_id, batch.number),
        rollout_id=batch.rollout_id,
        number=batch.number,
        wave=batch.wave,
        targets=targets_json(batch),
        created_at=iso(created_at),
        updated_at=iso(created_at),
        expires_at=expiry(created_at),
    )


def batch_of(item: RolloutBatchItem) -> RolloutBatch:
    """Return the batch of an item."""
    return RolloutBatch(
        rollout_id=RolloutId(item.rollout_id),
        number=int(item.number),
        wave=int(item.wave),
        targets=tuple(
            RolloutTarget(
                device_id=DeviceId(device_id),
                serial=serial,
                from_version=before,
                state=TargetState(state),
                round=round_,
                note=note,
                failed_as=TargetState(failed_as[0]) if failed_as else None,
            )
            for device_id, serial, before, state, round_, note, *failed_as in cast("list[Any]", item.targets)
        ),
        version=int(item.version or 0),
    )


def expiry(created_at: datetime) -> int:
    """Return the moment, in seconds since 1970, at which a rollout may be deleted that was made at a moment."""
    return epoch_ms(created_at + RETENTION) // 1000

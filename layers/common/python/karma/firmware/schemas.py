"""Bodies of the routes of firmware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from karma.core.errors import ValidationFailed
from karma.core.ids import DeviceId, is_id
from karma.core.schemas import COMPOSED, Body, Version, Whole, judged
from karma.devices.domain import MAX_TAG_CHARS
from karma.firmware.domain import DEFAULT_WAVES, MAX_DEVICES, MAX_MANIFEST_CHARS, MAX_WAVES
from karma.firmware.rollouts import RolloutPlan

_MAX_ID: Final = 64
_MAX_BASE64: Final = 128
_MINUTES_A_WEEK: Final = 7 * 24 * 60


def _release_id(text: str) -> None:
    if not is_id(text):
        raise ValidationFailed.of("release_id", "must be the id of a firmware release")


def _device_id(text: str) -> None:
    if not is_id(text):
        raise ValidationFailed.of("device_ids", "must be ids of devices")


def _ascending(waves: list[int]) -> list[int]:
    if waves != sorted(set(waves)) or waves[-1] != 100:
        raise ValueError("must ascend and end with 100")
    return waves


ReleaseName = Annotated[str, Field(max_length=_MAX_ID), judged(_release_id)]
DeviceName = Annotated[str, Field(max_length=_MAX_ID), judged(_device_id)]
Percent = Annotated[Whole, Field(ge=1, le=100)]


class CreateReleaseBody(Body):
    """A signed manifest of firmware; the bytes are uploaded then."""

    manifest: Annotated[str, Field(min_length=2, max_length=MAX_MANIFEST_CHARS)]
    """The very text that was signed: JSON with format, models, version, size, sha256 and rollback_index."""
    signature: Annotated[str, Field(max_length=_MAX_BASE64)]
    """Ed25519 signature of the manifest's UTF-8, in base64."""
    public_key: Annotated[str, Field(max_length=_MAX_BASE64)]
    """Key of the signature, 32 bytes in base64. Devices go by the keys that they were made with."""


class PublishReleaseBody(Body):
    """A draft that is to be published."""

    version: Version | None = None


class CreateRolloutBody(Body):
    """A release for devices: those of `device_ids`, those with `tag`, or, with `all`, every one of its models."""

    release_id: ReleaseName
    device_ids: Annotated[list[DeviceName], Field(min_length=1, max_length=MAX_DEVICES)] | None = None
    tag: Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS), COMPOSED] | None = None
    all: bool = Field(default=False, strict=True)
    waves: Annotated[list[Percent], Field(min_length=1, max_length=MAX_WAVES), AfterValidator(_ascending)] = Field(
        default_factory=lambda: list(DEFAULT_WAVES)
    )
    """Percentages of the devices that have been offered the release from each wave on; they ascend to 100."""
    wave_hours: Annotated[Whole, Field(ge=1, le=24 * 30)] = 24
    """Hours after which the next wave begins although some devices of this one have not ended."""
    abort_percent: Percent = 20
    """Percentage of failures among the devices that have ended, at which nobody else is offered the release."""
    abort_min_finished: Annotated[Whole, Field(ge=1, le=MAX_DEVICES)] = 5
    """Devices that must have ended before the percentage says anything."""
    timeout_minutes: Annotated[Whole, Field(ge=1, le=_MINUTES_A_WEEK)] = 120
    """Minutes from a device's begin to its end, after which it has failed."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rule on the target, where it is broken."""
        named = [given.get("device_ids") is not None, given.get("tag") is not None, given.get("all") is True]
        return [] if sum(named) == 1 else [("device_ids", "must be given, or tag, or all; and one of them only")]

    def plan(self) -> RolloutPlan:
        """Return what the body says, in the domain's words."""
        return RolloutPlan(
            device_ids=tuple(sorted({DeviceId(each) for each in self.device_ids or ()})),
            tag=self.tag,
            everybody=self.all,
            waves=tuple(self.waves),
            wave_hours=self.wave_hours,
            abort_percent=self.abort_percent,
            abort_min_finished=self.abort_min_finished,
            timeout_minutes=self.timeout_minutes,
        )


class MoveRolloutBody(Body):
    """A rollout that is to be paused, resumed or cancelled."""

    version: Version | None = None


class RetryRolloutBody(Body):
    """Devices of a rollout that are to be tried once more; without `device_ids` all that have failed."""

    device_ids: Annotated[list[DeviceName], Field(min_length=1, max_length=MAX_DEVICES)] | None = None
    version: Version | None = None

    def named(self) -> list[DeviceId]:
        """Return the devices that are named."""
        return sorted({DeviceId(each) for each in self.device_ids or ()})


class FirmwareRollbackBody(Body):
    """The release to which devices shall go back."""

    release_id: ReleaseName

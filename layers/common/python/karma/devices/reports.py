"""Reports of settings: what a device says that it has, out of the documents that the broker tells after each change.

A document has the settings before and after. Their difference in what is reported is the report; where there is none,
as of an owner's change or a device that says the same again, nothing is written. What is kept of a report is told on
the device's channel by the table's stream.

Delivered at least once, in any order: the id of what is kept is made of the document's second and version, so a repeat
finds it stored, and a late one takes its place. What was reported before the device changed hands belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from karma.core import freeform
from karma.core.clock import from_epoch_ms
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import NotFound, Upstream
from karma.core.ids import derived_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.devices.allowance import HourlyAllowance
from karma.devices.domain import DeviceState
from karma.devices.hearing import DeviceMessage
from karma.devices.repository.device_mapping import SerialClaim
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.settings_changes import SettingsChangeRepository
from karma.devices.shadow import ChangeState, Json, SettingsChange, Shadow, patch_to
from karma.devices.topics import reporting_thing

MAX_REPORT_BYTES: Final = 4 * 1024
"""Largest report that is kept, in bytes of JSON: as much as all desired settings may have."""
_MAX_VERSION: Final = 1 << 53
_MOST_APART_S: Final = 24 * 3600
"""Seconds between a document's time and the rule's beyond which it is no document of the broker's."""


class UnreadableDocument(ValueError):
    """The message is no document of a shadow."""


class Document(Record, kw_only=True):
    """Settings before and after a change."""

    before: Shadow
    after: Shadow
    at_s: int

    def report(self, since: datetime) -> Json:
        """Return the merge patch of what the change has reported; {}: nothing, or what is a former owner's."""
        before, after = self.before.since(since).reported, self.after.since(since).reported
        return patch_to(after, stored=before, seen=before)


def read_document(payload: bytes, *, received_ms: int) -> Document:
    """Read a document of a shadow.

    Raises:
        UnreadableDocument: it is none.
    """
    try:
        body = freeform.loads(payload, replace_surrogates=True, is_exact=False)
        before, after, at_s = body.get("previous"), body["current"], body["timestamp"]
        document = Document(before=_shadow(before) if before else Shadow(), after=_shadow(after), at_s=at_s)
    except (freeform.NotJson, freeform.OutOfBounds, AttributeError, KeyError, TypeError) as exc:
        raise UnreadableDocument("not a document of a shadow") from exc
    if type(at_s) is not int or abs(at_s - received_ms // 1_000) > _MOST_APART_S:
        raise UnreadableDocument("timestamp")
    if not 0 < document.after.version < _MAX_VERSION:
        raise UnreadableDocument("version")
    return document


def _shadow(document: dict[str, Any]) -> Shadow:
    state, stamps, version = document["state"], document.get("metadata") or {}, document["version"]
    desired, reported = state.get("desired") or {}, state.get("reported") or {}
    if not (type(version) is int and isinstance(desired, dict) and isinstance(reported, dict)):
        raise TypeError("version, desired, reported")
    return Shadow(
        version=version,
        desired=desired,
        reported=reported,
        desired_stamps=stamps.get("desired") or {},
        reported_stamps=stamps.get("reported") or {},
    )


class SettingsReports:
    """Keeps what devices report of their settings."""

    def __init__(
        self, devices: DeviceRepository, changes: SettingsChangeRepository, allowance: HourlyAllowance
    ) -> None:
        self._devices = devices
        self._changes = changes
        self._allowance = allowance

    def take(self, messages: Sequence[DeviceMessage]) -> list[str]:
        """Keep reports, each by itself; return the ids of the messages that must be delivered again."""
        failed: list[str] = []
        for message in messages:
            try:
                rejected = self._take_one(message)
            except (Upstream, ConditionFailed) as exc:
                logger.warning("ingest.retry", cause=type(exc).__name__)
                failed.append(message.id)
            except Exception:  # noqa: BLE001  one message's bug must not hold back the others of its batch
                logger.exception("ingest.failed")
                failed.append(message.id)
            else:
                if rejected:
                    count("IngestRejected", reason=rejected)
        return failed

    def _take_one(self, message: DeviceMessage) -> str:
        """Keep a report, and return why there is nothing to keep of it; "": there is not, or it is kept."""
        thing = reporting_thing(message.topic)
        if thing is None:
            return "TOPIC"
        try:
            document = read_document(message.payload, received_ms=message.received_ms)
        except UnreadableDocument:
            return "SETTINGS"
        if not document.report(datetime.fromtimestamp(0, UTC)):
            return ""
        rejected = "UNKNOWN_DEVICE"
        # Once more, consistently: the device may be seconds old, or another account's since.
        for consistent in (False, True):
            claim = self._devices.claim_of(thing, consistent=consistent)
            if claim is None or claim.state is not DeviceState.ACTIVE:
                continue
            try:
                return self._keep(claim, document, received_ms=message.received_ms)
            except NotFound:
                rejected = "DELETED"
        return rejected

    def _keep(self, claim: SerialClaim, document: Document, *, received_ms: int) -> str:
        since = from_epoch_ms(claim.since_ms)
        if received_ms < claim.since_ms or document.at_s < int(since.timestamp()):
            return "BEFORE_TRANSFER"
        patch, version = document.report(since), document.after.version
        if not patch:
            return "BEFORE_TRANSFER"
        if not self._allowance.take_report(claim.device_id, received_ms=received_ms):
            return "TOO_FAST"
        # Reports of one second stand in the order of their versions.
        at = from_epoch_ms(document.at_s * 1_000 + version % 1_000)
        is_cut = len(orjson.dumps(patch)) > MAX_REPORT_BYTES
        report = SettingsChange(
            id=derived_id(at, claim.device_id, str(version)),
            device_id=claim.device_id,
            changed_by=None,
            patch={} if is_cut else patch,
            at=at,
            state=ChangeState.REPORTED,
            settings_version=version,
            is_cut=is_cut,
        )
        if self._changes.keep(claim.user_id, report):
            count("SettingsReported")
        return ""

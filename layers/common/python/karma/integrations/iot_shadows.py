"""AWS IoT's device shadows: settings of a device stand in the named shadow `settings` of its thing.

Errors are those of karma.integrations.iot.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from karma.core import aws, freeform
from karma.core.errors import ValidationFailed
from karma.core.faults import AWS_FAULTS, code_of
from karma.devices.shadow import Json, Shadow
from karma.integrations.iot import SHADOW, data_host, device_service_errors

_ABSENT: Final = frozenset({"ResourceNotFoundException"})
_STALE: Final = frozenset({"ConflictException", "VersionConflictException"})
_TOO_LARGE: Final = frozenset({"RequestEntityTooLargeException"})
_LEVELS: Final = 32
"""Levels of a setting that is shown; AWS takes eight."""


class IotShadows:
    """Shadows of the account's things."""

    def __init__(self, *, endpoint_url: str = "") -> None:
        """Make it, without calls of AWS; `endpoint_url` "": the data endpoint is asked for once a process."""
        self._endpoint_url = endpoint_url

    def read(self, thing: str) -> Shadow:
        """Read a thing's settings; version 0: it has none."""
        with device_service_errors():
            try:
                found = self._client().get_thing_shadow(thingName=thing, shadowName=SHADOW)
            except AWS_FAULTS as exc:
                if code_of(exc) in _ABSENT:
                    return Shadow()
                raise
        # What a device reports is what it likes: halves of characters, which the broker takes, are replaced.
        document = freeform.loads(found["payload"].read(), levels=None, replace_surrogates=True, is_exact=False)
        state, stamps = document.get("state") or {}, document.get("metadata") or {}
        return Shadow(
            version=int(document["version"]),
            desired=_shown(state.get("desired")),
            reported=_shown(state.get("reported")),
            desired_stamps=stamps.get("desired") or {},
            reported_stamps=stamps.get("reported") or {},
        )

    def update(self, thing: str, *, desired: Json, reported: Json, version: int, token: str) -> int | None:
        """Merge patches into a thing's settings, and return the new version; None: they have another version.

        Args:
            thing: name of the thing.
            desired: merge patch of what is desired.
            reported: merge patch of what is reported; {} leaves it as it is.
            version: version that the settings must have; 0: there are none.
            token: id of the change, which the broker's answers and events repeat.

        Raises:
            ValidationFailed: with what the device reports they are more than a shadow holds.
            DeviceServiceThrottled, DeviceServiceUnavailable: they may or may not have been changed.
        """
        state: dict[str, Any] = {"desired": desired}
        if reported:
            state["reported"] = reported
        body: dict[str, Any] = {"state": state, "clientToken": token}
        if version:
            # A shadow that was deleted goes on from its last version, which is not told: nothing can be compared.
            body["version"] = version
        with device_service_errors():
            try:
                made = self._client().update_thing_shadow(
                    thingName=thing, shadowName=SHADOW, payload=orjson.dumps(body)
                )
            except AWS_FAULTS as exc:
                if code_of(exc) in _STALE:
                    return None
                if code_of(exc) in _TOO_LARGE:
                    raise ValidationFailed.of(
                        "desired", "with what the device reports, the settings have at most 8 KB"
                    ) from exc
                raise
        return int(orjson.loads(made["payload"].read())["version"])

    def delete(self, thing: str) -> None:
        """Delete a thing's settings; none are fine."""
        with device_service_errors():
            try:
                self._client().delete_thing_shadow(thingName=thing, shadowName=SHADOW)
            except AWS_FAULTS as exc:
                if code_of(exc) not in _ABSENT:
                    raise

    def _client(self) -> Any:
        return aws.client("iot-data", endpoint_url=self._endpoint_url or f"https://{data_host()}")


def _shown(settings: Json | None) -> Json:
    """Return settings without those that are deeper than any answer of ours: the device has put them there itself."""
    return {name: value for name, value in (settings or {}).items() if not freeform.is_deeper(value, _LEVELS)}

"""Events of devices that webhooks tell: what becomes of their certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from karma.core.happenings import Happening, HappeningSource, HappeningType, ItemChange, text_in

_ISSUED: Final = "device.certificate_issued"
_ENDED: Final[Mapping[str, str]] = {
    "connected": "device.certificate_rotated",
    "ended": "device.certificate_removed",
    "withdrawn": "device.certificate_withdrawn",
}
"""Types by the outcome of a rotation."""
_TOLD: Final[Mapping[str, str]] = {
    _ISSUED: "A device has two certificates: a new one was made.",
    "device.certificate_rotated": "A device has connected by its new certificate; the old one is removed.",
    "device.certificate_removed": "The old certificate is removed before the device has connected by the new one.",
    "device.certificate_withdrawn": "The new certificate of a device was removed; the old one goes on.",
}


class DeviceHappenings:
    """Changes of devices' certificates."""

    types: Sequence[HappeningType] = tuple(HappeningType(name=name, meaning=meaning) for name, meaning in _TOLD.items())
    table = "devices"
    items: Sequence[str] = ("certificate_rotation",)

    def happened(self, change: ItemChange) -> Happening | None:
        """Return what became of a certificate by a change of a rotation's item."""
        new = change.new
        if new is None or new.get("type") != {"S": "certificate_rotation"}:
            return None
        was, stage = text_in(change.old, "stage"), text_in(new, "stage")
        if stage == was or stage not in ("overlap", "ending"):
            return None
        name = _ISSUED if stage == "overlap" else _ENDED[text_in(new, "outcome")]
        # Late: a route that only names the types needs none of these.
        from datetime import datetime

        from karma.core.clock import from_epoch_ms, iso
        from karma.core.happenings import number_in
        from karma.core.ids import UserId, derived_id

        at = datetime.fromisoformat(text_in(new, "updated_at"))
        return Happening(
            id=derived_id(at, "rotation", text_in(new, "attempt"), name),
            user_id=UserId(text_in(new, "user_id")),
            type=name,
            at=at,
            data={
                "device_id": text_in(new, "device_id"),
                "certificate_id": text_in(new, "certificate_id"),
                "replaces": text_in(new, "old_certificate_id"),
                "ends_at": iso(from_epoch_ms(number_in(new, "ends_ms"))),
            },
        )


def source() -> HappeningSource:
    """Return what devices declare."""
    return DeviceHappenings()

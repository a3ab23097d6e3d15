"""Tells of which device an item is, by its keys as a stream has them: for push and search."""

from __future__ import annotations

import re
from typing import Final

from karma.core.happenings import Image, text_in
from karma.core.ids import DeviceId, UserId

_OWNER: Final = re.compile(r"USER#([^#]+)")
_DEVICE: Final = re.compile(r"DEVICE#([^#]+)(?:#LATEST|#PRESENCE)?")


def device_of(image: Image | None) -> tuple[UserId, DeviceId] | None:
    """Return the owner and the device of a row, of newest facts or of presence; None: it has not the keys of one."""
    owner, device = _OWNER.fullmatch(text_in(image, "pk")), _DEVICE.fullmatch(text_in(image, "sk"))
    return None if owner is None or device is None else (UserId(owner[1]), DeviceId(device[1]))

"""Offers of devices to other accounts: states, limits and what moves.

offer      pending -> (accepted: gone, the device is the receiver's) | declined | (withdrawn: gone)
           after `OFFER_TTL` it is over, whatever became of it. One a device: a later one takes its place. It is void
           where its giver no longer may give: the device is deleted or changed hands, the giver's account is gone,
           disabled, may no longer write, or has ended its sessions since
refusal    who declined a device is not asked for it again until that offer's time is over
taking     what became of a device that an account accepted, so that a repeat finds it

The truth is the unique item of the serial number: it names the one account and device that a thing belongs to. One
transaction moves it, removes the giver's device and makes the receiver's, which has an id of its own. So whatever is
kept under the id that the giver knew (history, commands, files, alarms, schedules, shares) ends as if the device had
been deleted, and nothing of it can be read by the receiver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from karma.core.errors import Conflict, NotFound, StaleVersion
from karma.core.ids import DeviceId, UserId
from karma.core.records import Record
from karma.devices.domain import CurrentDevice, Device, DeviceModel, DeviceState, Latest
from karma.identity import permissions
from karma.identity.accounts import emails
from karma.identity.domain import User

OFFER_TTL: Final = timedelta(days=14)
"""Time for which an offer can be accepted, as an invitation to a project."""
MAX_RECEIVED: Final = 50
"""Largest number of offers that an account is shown."""


class OfferDeclined(Conflict):
    """The receiver declined this device, and is not asked again until that offer's time is over."""

    code = "OFFER_DECLINED"


class TransferChanged(StaleVersion):
    """The device or its offer changed since it was read: read them again."""


class DeviceOffer(Record, kw_only=True):
    """An offer of a device to an account, or to whoever proves an e-mail address."""

    device_id: DeviceId
    offered_by: UserId
    user_id: UserId | None
    """The account that is asked; None: whoever proves `email`, now or later."""
    email: str | None
    """Normalised e-mail address; None: an account is asked by id."""
    offered_at: datetime
    expires_at: datetime
    declined: bool = False

    @property
    def receiver(self) -> str:
        """Return who is asked: a user id, or the SHA-256 of an address."""
        return self.user_id or emails.digest(self.email or "")

    def is_open(self, now: datetime) -> bool:
        """Tell whether it was neither declined nor has expired."""
        return not self.declined and now < self.expires_at

    def is_refused(self, now: datetime) -> bool:
        """Tell whether it was declined, and its time is not over."""
        return self.declined and now < self.expires_at

    def is_to(self, names: Sequence[str]) -> bool:
        """Tell whether one of the names by which an account is reached is the receiver."""
        return self.receiver in names


class ReceivedOffer(Record, kw_only=True):
    """An offer as its receiver sees it: of the device no more than what it is."""

    offer: DeviceOffer
    name: str
    model: DeviceModel
    serial_number: str


def may_give(giver: User | None, offer: DeviceOffer) -> bool:
    """Tell whether the giver of an offer still may: the account is in use, and has not ended its sessions since."""
    if giver is None or giver.disabled_at is not None or not permissions.allows(giver.role, "device:write", None):
        return False
    return giver.sessions_from is None or giver.sessions_from <= offer.offered_at


def taken_over(current: CurrentDevice, *, by: UserId, as_id: DeviceId, at: str) -> CurrentDevice:
    """Return a device as its receiver has it: what it is goes with it, what its giver said of it and it measured stays.

    Tags, location and network are the giver's; so are the newest values and the address. What it needs to go on is
    that it is connected, takes commands, and which firmware it has.
    """
    device, latest = current.device, current.latest
    moved = Device(
        id=as_id,
        user_id=by,
        name=device.name,
        model=device.model,
        mac=device.mac,
        serial_number=device.serial_number,
        state=DeviceState.ACTIVE,
        ip=None,
        firmware_version=device.firmware_version,
        capabilities=device.capabilities,
        hardware=device.hardware,
        network={},
        location=None,
        tags=(),
        version=0,
        created_at=at,
        updated_at=at,
        is_bare=device.is_bare,
        # One without a certificate does not know itself yet.
        first_id=None if device.is_bare else device.addressee,
    )
    facts = replace(Latest(), last_seen_ms=latest.last_seen_ms, ready_ms=latest.ready_ms)
    facts = replace(facts, firmware_ms=latest.firmware_ms, firmware_version=latest.firmware_version)
    facts = replace(facts, condition_ms=latest.condition_ms, condition=latest.condition)
    return CurrentDevice(moved, facts, current.presence)


def no_offer() -> NotFound:
    """Return the error for somebody to whom a device is not offered, whether it exists or not."""
    return NotFound("There is no such offer")


def transfer_changed() -> TransferChanged:
    """Return the error of a write whose device or offer is not as it was read."""
    return TransferChanged("The device or its offer was changed by another request; read it again")

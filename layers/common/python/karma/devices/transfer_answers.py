"""Answers of the routes of transfers: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Annotated, TypedDict

from pydantic import Field

from karma.core.clock import iso
from karma.devices.domain import DeviceModel
from karma.devices.transfer import DeviceOffer, ReceivedOffer


class DeviceOfferView(TypedDict):
    """The offer of a device, as its owner sees it."""

    device_id: str
    user_id: Annotated[str | None, Field(description="The account that is asked; null: an address is")]
    email: str | None
    offered_at: str
    expires_at: str
    declined: bool


def offer_view(offer: DeviceOffer) -> DeviceOfferView:
    """Return an offer in the shape of the API, for the device's owner."""
    return {
        "device_id": offer.device_id,
        "user_id": offer.user_id,
        "email": offer.email,
        "offered_at": iso(offer.offered_at),
        "expires_at": iso(offer.expires_at),
        "declined": offer.declined,
    }


class DeviceOfferData(TypedDict):
    """`POST` and `GET /devices/{device_id}/transfer`."""

    transfer: DeviceOfferView


class ReceivedOfferView(TypedDict):
    """The offer of a device, as its receiver sees it."""

    device_id: Annotated[str, Field(description="The giver's id of the device; whoever accepts it gets another")]
    device_name: str
    model: DeviceModel
    serial_number: str
    offered_by: str
    offered_at: str
    expires_at: str


def received_offer_view(received: ReceivedOffer) -> ReceivedOfferView:
    """Return an offer in the shape of the API, for its receiver."""
    offer = received.offer
    return {
        "device_id": offer.device_id,
        "device_name": received.name,
        "model": received.model,
        "serial_number": received.serial_number,
        "offered_by": offer.offered_by,
        "offered_at": iso(offer.offered_at),
        "expires_at": iso(offer.expires_at),
    }


class ReceivedOfferListData(TypedDict):
    """`GET /transfers`."""

    transfers: list[ReceivedOfferView]
    total: int

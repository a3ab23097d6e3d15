"""Answers of the routes of provisioning claims: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Annotated, TypedDict

from pydantic import Field

from karma.core.clock import from_epoch_ms, iso
from karma.devices.claims import MadeClaim
from karma.devices.domain import DeviceModel
from karma.devices.provisioning import (
    CLIENT_ID_PREFIX,
    ClaimStatus,
    ListedSerial,
    ProvisioningClaim,
    RefusalReason,
)


class ClaimRefusalView(TypedDict):
    """A refusal, as it was noted at its claim."""

    reason: Annotated[str, Field(description=f"One of {', '.join(RefusalReason)}")]
    serial_number: Annotated[str, Field(description='As the device named it; "": it named none')]
    at: str


class ProvisioningClaimView(TypedDict):
    """A claim, by which devices of a list get certificates of their own."""

    id: str
    name: str
    status: ClaimStatus
    model: DeviceModel
    tags: list[str]
    serial_numbers: Annotated[int, Field(description="Number of them on its list")]
    max_devices: int
    devices: Annotated[int, Field(description="Number that it has made")]
    certificate_id: str
    last_refusal: Annotated[
        ClaimRefusalView | None, Field(description="The last one that was noted: at most one a minute is")
    ]
    created_at: str
    expires_at: str


def claim_view(claim: ProvisioningClaim, *, now_ms: int) -> ProvisioningClaimView:
    """Render a claim."""
    refusal = claim.refusal
    return {
        "id": claim.id,
        "name": claim.name,
        "status": claim.status(now_ms),
        "model": claim.model,
        "tags": list(claim.tags),
        "serial_numbers": claim.listed,
        "max_devices": claim.max_devices,
        "devices": claim.used,
        "certificate_id": claim.certificate_id,
        "last_refusal": {
            "reason": refusal.reason,
            "serial_number": refusal.serial_number,
            "at": iso(from_epoch_ms(refusal.at_ms)),
        }
        if refusal is not None
        else None,
        "created_at": iso(from_epoch_ms(claim.created_ms)),
        "expires_at": iso(from_epoch_ms(claim.ends_ms)),
    }


class ClaimCredentialsView(TypedDict):
    """Credentials that a device is given at its factory, the same on all of a batch; shown once."""

    certificate_id: str
    certificate_pem: str
    private_key: str
    ca_pem: str
    mqtt_host: str
    mqtt_port: int
    template_name: Annotated[str, Field(description="Names the topics on which it asks: docs/mqtt.md")]
    client_id_prefix: Annotated[str, Field(description="The client id is this and the serial number")]


def claim_credentials_view(made: MadeClaim, *, template_name: str) -> ClaimCredentialsView:
    """Render the credentials of a new claim."""
    certificate, endpoint = made.certificate, made.endpoint
    return {
        "certificate_id": certificate.id,
        "certificate_pem": certificate.pem,
        "private_key": certificate.private_key or "",
        "ca_pem": endpoint.ca_pem,
        "mqtt_host": endpoint.host,
        "mqtt_port": endpoint.port,
        "template_name": template_name,
        "client_id_prefix": CLIENT_ID_PREFIX,
    }


class MadeClaimData(TypedDict):
    """`POST /provisioning-claims`."""

    provisioning_claim: ProvisioningClaimView
    credentials: ClaimCredentialsView


class ProvisioningClaimData(TypedDict):
    """`GET /provisioning-claims/{claim_id}`."""

    provisioning_claim: ProvisioningClaimView


class ProvisioningClaimListData(TypedDict):
    """`GET /provisioning-claims`."""

    provisioning_claims: list[ProvisioningClaimView]
    total: int


class ListedSerialView(TypedDict):
    """A serial number of a claim's list."""

    serial_number: str
    device_id: Annotated[str | None, Field(description="The device that it became; null: none yet")]
    provisioned_at: str | None


def listed_serial_view(listed: ListedSerial) -> ListedSerialView:
    """Render a serial number with what became of it."""
    made = listed.provisioned
    return {
        "serial_number": listed.serial_number,
        "device_id": made.device_id if made is not None else None,
        "provisioned_at": iso(from_epoch_ms(made.provisioned_ms)) if made is not None else None,
    }


class ListedSerialListData(TypedDict):
    """`GET /provisioning-claims/{claim_id}/serial-numbers`."""

    serial_numbers: list[ListedSerialView]
    total: int
    limit: int
    next_cursor: str | None

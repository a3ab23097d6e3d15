"""The pre-provisioning hook of AWS IoT (infra/constructs/fleet_provisioning.py): who gets a certificate of its own."""

from __future__ import annotations

from karma.core import startup

# isort: split
from functools import cache
from typing import TYPE_CHECKING, Any

from karma.billing.allowances import Allowances
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.subscriptions import SubscriptionService
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.devices.admission import AdmissionRequest, AdmissionService
from karma.devices.provisioning import AskAgain, NotAdmitted
from karma.devices.renewal import RenewalService
from karma.devices.repository.admissions import AdmissionRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.provisioning_claims import ProvisioningClaimRepository
from karma.devices.repository.rotations import RotationRepository

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    devices_table: str
    billing_table: str


@cache
def services() -> AdmissionService:
    """Build the service once a process."""
    bind_tables(load(Settings))
    clock = SystemClock()
    plans = SubscriptionService(subscriptions=SubscriptionRepository(), clock=clock)
    allowances = Allowances(terms_of=plans.terms, clock=clock)
    renewals = RenewalService(DeviceRepository(), RotationRepository(), clock)
    return AdmissionService(AdmissionRepository(), ProvisioningClaimRepository(), renewals, allowances.of, clock)


startup.over()


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Allow the device that AWS IoT asks about, or not; what it is made of is ours to say.

    What is raised AWS IoT tells the device as `InvocationError`, after which it asks again; a refusal it does not.

    Raises:
        AskAgain: it is to ask again in a while.
        Upstream: the database did not answer.
    """
    try:
        admitted = services().admit(_request(event))
    except AskAgain:
        raise
    except NotAdmitted:
        return {"allowProvisioning": False}
    return {
        "allowProvisioning": True,
        "parameterOverrides": {"ThingName": admitted.serial_number, "DeviceId": admitted.device_id},
    }


def _request(event: dict[str, Any]) -> AdmissionRequest:
    given = event.get("parameters")
    parameters = {name: value for name, value in (given if isinstance(given, dict) else {}).items() if _is_text(value)}
    head = str(event["templateArn"]).partition(":provisioningtemplate/")[0]
    return AdmissionRequest(
        # Absent when whoever asks has no certificate, as by a WebSocket.
        claim_certificate_id=str(event.get("claimCertificateId") or "-"),
        certificate_arn=f"{head}:cert/{event['certificateId']}",
        parameters=parameters,
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)

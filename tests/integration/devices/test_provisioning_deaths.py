"""Whoever makes a claim, or a device by it, dies at any call: the repeat makes one, and the sweep removes the rest."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.audit.domain import NOWHERE
from karma.core.ids import UserId, new_id
from karma.devices.claims import MadeClaim, NewClaim, ProvisioningClaimService
from karma.devices.domain import DeviceModel
from karma.devices.repository.provisioning_claims import ProvisioningClaimRepository
from karma.integrations.iot import IotRegistry
from tests.fakes.devices import FakeClock
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.stack import Context, HttpEvent, Stack

POLICIES = ("karma-device", "karma-claim")
TEMPLATE = "arn:aws:iot:us-east-1:000000000000:provisioningtemplate/karma-fleet"


class Claims:
    """Claims of one account in the engine's registry."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.iot = stack.aws("iot")
        for policy in POLICIES:
            self.iot.create_policy(policyName=policy, policyDocument='{"Version": "2012-10-17", "Statement": []}')
        self.user = UserId(new_id())
        self.registry = IotRegistry(policy_name="karma-claim", mqtt_host="mqtt.example.com", ca_pem="pem")

    def make(self, *serials: str, at: datetime | None = None) -> MadeClaim:
        """Make a claim; of those before nothing is left at the broker."""
        self.clear()
        open_account(self.user)
        clock = FakeClock(at or datetime.now(UTC))
        service = ProvisioningClaimService(ProvisioningClaimRepository(), self.registry, clock)
        new = NewClaim(
            name="Batch",
            model=DeviceModel.EOS_3A,
            tags=(),
            serial_numbers=serials,
            max_devices=None,
            expires_at=None,
        )
        return service.create(self.user, new, source=NOWHERE)

    def clear(self) -> None:
        for each in self.iot.list_certificates()["certificates"]:
            self.registry.remove_certificate(each["certificateArn"])

    def states(self) -> list[str]:
        return sorted(each["status"] for each in self.iot.list_certificates()["certificates"])

    def event(self, made: MadeClaim, serial: str, *, certificate: str = "c1", **parameters: Any) -> dict[str, Any]:
        """Return the hook's event as AWS IoT sends it."""
        return {
            "claimCertificateId": made.certificate.id,
            "certificateId": certificate,
            "certificatePem": "pem",
            "templateArn": TEMPLATE,
            "clientId": f"claim:{serial}",
            "parameters": {"SerialNumber": serial, "MacAddress": "aa-bb-cc-00-11-22", **parameters},
        }


@pytest.fixture
def claims(stack: Stack) -> Claims:
    stack.use("api")
    return Claims(stack)


def comparable(item: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out what each try makes anew."""
    if item["type"] in {"device_counter", "audit_entry"} or item["type"].endswith("_request"):
        return None
    item["pk"] = "#".join(part for part in item["pk"].split("#") if "-" not in part and len(part) < 64)
    item["sk"] = "#".join(part for part in item["sk"].split("#") if "-" not in part or part.startswith("EOS"))
    own = {"device_id", "claim_id", "gsi1sk", "gsi1pk", "certificate_id", "certificate_arn", "user_id", "id"}
    item.update(dict.fromkeys(own & item.keys(), ""))
    item.update({name: 0 for name in ("created_ms", "ends_ms", "expires_at", "provisioned_ms") if name in item})
    return item


def tables(stack: Stack) -> list[str]:
    return [stack.tables[name] for name in ("devices", "billing")]


@pytest.mark.fault("F-42b")
@pytest.mark.parametrize("is_again", [False, True], ids=["the first time", "in the place of a lost one"])
def test_a_hook_that_dies_at_any_call_makes_one_device(claims: Claims, *, is_again: bool) -> None:
    from device_ingest.provisioning import lambda_handler

    stack = claims.stack
    stack.use("device_ingest.provisioning")

    def seed() -> Any:
        made = claims.make("EOS-1")
        if is_again:
            first = claims.event(made, "EOS-1", certificate="c0")
            assert lambda_handler(first, Context())["allowProvisioning"]
        return claims.event(made, "EOS-1")

    report = CrashTest(
        entry="device_ingest.provisioning:lambda_handler",
        aws=stack.aws,
        tables=tables(stack),
        seed=seed,
        normalise=comparable,
        accept=lambda answer: answer["allowProvisioning"] is True,
    ).run()
    assert "dynamodb.TransactWriteItems" in report.calls
    assert len(report.calls) <= 5


@pytest.mark.fault("F-42c")
def test_what_a_hook_answers(claims: Claims) -> None:
    from device_ingest.provisioning import lambda_handler

    claims.stack.use("device_ingest.provisioning")
    made = claims.make("EOS-1")
    allowed = lambda_handler(claims.event(made, "EOS-1", ThingName="EOS-9", DeviceId="x"), Context())
    assert allowed["parameterOverrides"]["ThingName"] == "EOS-1"
    assert allowed["parameterOverrides"]["DeviceId"] not in ("", "x")
    refused = {"allowProvisioning": False}
    assert lambda_handler(claims.event(made, "EOS-2"), Context()) == refused
    unsigned = claims.event(made, "EOS-1")
    del unsigned["claimCertificateId"]
    assert lambda_handler(unsigned, Context()) == refused
    assert lambda_handler({**claims.event(made, "EOS-1"), "parameters": None}, Context()) == refused
    assert lambda_handler(claims.event(made, "EOS-1", SerialNumber=["EOS-1"]), Context()) == refused


@pytest.mark.fault("F-42e")
@pytest.mark.parametrize("is_revoked", [False, True], ids=["ended", "revoked"])
def test_a_sweep_that_dies_at_any_call_is_finished_by_the_next(claims: Claims, *, is_revoked: bool) -> None:
    from device_ingest.provisioning import lambda_handler

    stack = claims.stack
    repository = ProvisioningClaimRepository()

    def seed() -> dict[str, str]:
        stack.use("device_ingest.provisioning")
        made = claims.make("EOS-1", at=datetime.now(UTC) - timedelta(days=0 if is_revoked else 90, minutes=1))
        if is_revoked:
            assert lambda_handler(claims.event(made, "EOS-1"), Context())["allowProvisioning"]
            ProvisioningClaimService(repository, claims.registry, FakeClock(datetime.now(UTC))).revoke(
                claims.user, made.claim.id, source=NOWHERE
            )
        stack.use("sweeps.devices")
        return {"sweep": "provisioning"}

    CrashTest(
        entry="background.sweeps.devices:lambda_handler",
        aws=stack.aws,
        tables=tables(stack),
        seed=seed,
        normalise=comparable,
        other_state=claims.states,
    ).run()
    assert claims.states() == []


@pytest.mark.fault("F-42e")
def test_what_is_settled_dies_at_any_call(claims: Claims) -> None:
    """A device was deleted before the broker had made its thing, and both are left behind."""
    from device_ingest.provisioning import lambda_handler

    stack = claims.stack

    def seed() -> dict[str, str]:
        stack.use("device_ingest.provisioning")
        for thing in claims.iot.list_things()["things"]:
            IotRegistry(policy_name="karma-device").remove_thing(thing["thingName"])
        made = claims.make("EOS-1")
        registry = IotRegistry(policy_name="karma-device")
        own = registry.create_certificate()
        answer = lambda_handler(claims.event(made, "EOS-1", certificate=own.id), Context())
        device_id = answer["parameterOverrides"]["DeviceId"]
        registry.create_thing("EOS-1", device_id=device_id)
        registry.attach_certificate("EOS-1", own)
        dynamodb = stack.aws("dynamodb")
        # As after a deletion: nobody has the serial number. It is due already.
        table = stack.tables["devices"]
        dynamodb.delete_item(TableName=table, Key={"pk": {"S": "THING#EOS-1"}, "sk": {"S": "META"}})
        dynamodb.update_item(
            TableName=table,
            Key={"pk": {"S": f"CLAIM#{made.claim.id}"}, "sk": {"S": "SERIAL#EOS-1"}},
            UpdateExpression="SET gsi1sk = :due, certificate_arn = :arn",
            ExpressionAttributeValues={":due": {"S": "2026-01-01"}, ":arn": {"S": own.arn}},
        )
        stack.use("sweeps.devices")
        return {"sweep": "provisioning"}

    def left() -> Any:
        return claims.states(), len(claims.iot.list_things()["things"])

    report = CrashTest(
        entry="background.sweeps.devices:lambda_handler",
        aws=stack.aws,
        tables=tables(stack),
        seed=seed,
        normalise=comparable,
        other_state=left,
    ).run()
    assert {"iot.DescribeThing", "iot.DeleteThing", "iot.DeleteCertificate"} <= set(report.calls)
    assert left() == (["ACTIVE"], 0)


@pytest.mark.fault("F-42e")
def test_a_request_for_a_claim_that_dies_at_any_call_leaves_what_the_sweep_removes(
    claims: Claims, http_event: HttpEvent, lambda_context: Context
) -> None:
    from api.handler import lambda_handler

    stack = claims.stack

    def call(path: str, body: Any, **headers: str) -> Any:
        event = http_event("POST", path, body=body, headers=headers)
        return json.loads(lambda_handler(event, lambda_context)["body"])["data"]

    account = {"email": f"{new_id()}@example.com", "password": f"pass-{new_id()}"}
    call("/api/v1/auth/register", {**account, "name": "Ada"})
    bearer = f"Bearer {call('/api/v1/auth/login', account)['access_token']}"
    body = {"name": "Batch", "model": "EOS-3A", "csv": "serial_number\nEOS-1\nEOS-2\n"}

    def seed() -> Any:
        claims.clear()
        return http_event("POST", "/api/v1/provisioning-claims", body=body, headers={"authorization": bearer})

    def is_open() -> bool:
        listed = http_event("GET", "/api/v1/provisioning-claims", headers={"authorization": bearer})
        return bool(json.loads(lambda_handler(listed, lambda_context)["body"])["data"]["total"])

    report = CrashTest(
        entry="api.handler:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"]],
        seed=seed,
        normalise=lambda item: None,
        other_state=is_open,
        accept=lambda answer: answer["statusCode"] in (201, 409),
    ).run()
    assert {"iot.CreateKeysAndCertificate", "iot.AttachPolicy", "iot.UpdateCertificate"} <= set(report.calls)
    assert is_open()

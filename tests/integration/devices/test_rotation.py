"""A device changes its certificate: both connect for a while, nothing that it sends is lost, one is left in the end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from karma.core.errors import AlreadyCreated, Conflict, Gone, InvalidTransition, NotFound, Upstream
from karma.core.happenings import ItemChange
from karma.core.ids import UserId, new_id
from karma.core.requests import IdempotencyKey, IdempotencyKeyReused
from karma.devices.answers import device_view
from karma.devices.certificates import CertificateService, Rotated, sweep_rotations
from karma.devices.happenings import source
from karma.devices.repository.rotations import RotationRepository
from karma.devices.rotation import RotationOutcome, RotationStage
from karma.devices.service import Created
from karma.integrations.iot import IotRegistry
from tests.fakes.devices import FakeClock
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.devices import World, new_device
from tests.support.plans import allowance
from tests.support.stack import Context, HttpEvent, Stack

DAY_S = 86_400


class Fleet:
    """A device of a world, and the service that rotates its certificate."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rotations = RotationRepository()
        self.service = CertificateService(world.repository, self.rotations, world.registry, world.clock)
        self.first = world.create()
        self.device_id = self.first.current.device.id

    def rotate(self, **given: Any) -> Rotated:
        return self.service.rotate(self.world.user, self.device_id, **{"overlap_s": DAY_S, **given})

    def spoken_by(self, rotated: Rotated) -> Created:
        """Return the device as it speaks by its new certificate."""
        return Created(rotated.current, rotated.certificate, rotated.endpoint)

    def sweep(self) -> int:
        return sweep_rotations(self.service, self.rotations, self.world.clock)

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.service.list(self.world.user, self.device_id)]

    @property
    def at_the_broker(self) -> dict[str, str]:
        return {arn.rpartition("/")[2]: state for arn, state in self.world.registry.certificates.items()}

    @property
    def shown(self) -> tuple[int, Any]:
        view = device_view(self.world.current(self.first))
        return view["certificates"], view["rotation"]


@pytest.fixture
def fleet(world: World) -> Fleet:
    return Fleet(world)


def key(value: str, user: UserId) -> IdempotencyKey:
    return IdempotencyKey(caller=user, route="/certificates", value=value)


def samples(fleet: Fleet) -> list[float]:
    now = fleet.world.clock.ms
    batches = fleet.world.telemetry.batches(fleet.device_id, from_ms=now - 60_000, to_ms=now + 1)
    return sorted(value for each in batches for _, metrics in each.samples for value in metrics.values())


@pytest.mark.fault("F-31aa")
@pytest.mark.req("R-K-11")
def test_both_certificates_speak_until_the_new_one_has_and_nothing_is_lost(fleet: Fleet) -> None:
    world, first = fleet.world, fleet.first
    world.connect(first)
    second = fleet.spoken_by(fleet.rotate())
    assert fleet.ids == [first.certificate.id, second.certificate.id]
    assert fleet.at_the_broker == dict.fromkeys(fleet.ids, "ACTIVE")
    number, overlap = fleet.shown
    assert (number, overlap["certificate_id"]) == (2, second.certificate.id)

    # The claim of the old one was cached a moment ago, and the first message of the new one is taken all the same.
    world.tell(world.message(first, "telemetry", world.samples((-9, 1.0), seq=1)))
    late = world.message(first, "telemetry", world.samples((-8, 2.0), seq=2))
    world.clock.pass_time(seconds=1)
    world.tell(world.presence(second, "connected", 1, session="s2"))
    assert (fleet.ids, fleet.shown) == ([second.certificate.id], (1, None))
    # What the broker had from the old one before comes late, and what it had since is no longer the device's.
    world.tell(late, world.message(second, "telemetry", world.samples((-7, 3.0), seq=3)))
    world.clock.pass_time(seconds=1)
    world.tell(world.message(first, "telemetry", world.samples((-6, 4.0), seq=4)))
    world.tell(world.presence(first, "disconnected", 0))
    assert samples(fleet) == [1.0, 2.0, 3.0]
    assert world.current(first).presence.connected

    assert fleet.sweep() == 1
    assert fleet.at_the_broker == {second.certificate.id: "ACTIVE"}
    rotation = fleet.rotations.get(fleet.device_id)
    assert rotation is not None
    assert (rotation.stage, rotation.outcome) == (RotationStage.OVER, RotationOutcome.CONNECTED)
    assert fleet.sweep() == 0
    third = fleet.rotate()
    assert fleet.ids == [second.certificate.id, third.certificate.id]


def test_a_device_that_never_takes_the_new_one_loses_the_old_one_when_the_time_is_over(fleet: Fleet) -> None:
    world, first = fleet.world, fleet.first
    world.connect(first)
    second = fleet.rotate()
    world.clock.pass_time(seconds=DAY_S - 1)
    assert fleet.sweep() == 0
    world.clock.pass_time(seconds=2)
    assert fleet.sweep() == 1
    assert (fleet.ids, fleet.at_the_broker) == ([second.certificate.id], {second.certificate.id: "ACTIVE"})
    # The broker tells that the connection has ended, a moment after its certificate was removed.
    world.clock.pass_time(minutes=5)
    world.tell(world.presence(first, "disconnected", 0))
    assert not world.current(first).presence.connected


@pytest.mark.parametrize("new", [True, False], ids=["the new one", "the old one"])
def test_either_certificate_may_be_removed_and_never_the_last_one(fleet: Fleet, new: bool) -> None:
    second = fleet.rotate()
    removed, kept = fleet.first.certificate.id, second.certificate.id
    if new:
        removed, kept = kept, removed
    user = fleet.world.user
    fleet.service.remove(user, fleet.device_id, removed)
    fleet.service.remove(user, fleet.device_id, removed)
    assert (fleet.ids, fleet.at_the_broker, fleet.shown) == ([kept], {kept: "ACTIVE"}, (1, None))
    with pytest.raises(InvalidTransition):
        fleet.service.remove(user, fleet.device_id, kept)
    for owner, certificate in ((user, "no-such"), (open_account(), kept)):
        with pytest.raises(NotFound):
            fleet.service.remove(owner, fleet.device_id, certificate)


@pytest.mark.fault("F-31aa")
def test_a_broker_that_does_not_answer_is_asked_again_by_the_sweep(fleet: Fleet) -> None:
    second = fleet.rotate()
    fleet.world.registry.fail_at = "remove_certificate"
    fleet.service.remove(fleet.world.user, fleet.device_id, fleet.first.certificate.id)
    assert fleet.ids == [second.certificate.id]
    assert len(fleet.at_the_broker) == 2
    fleet.world.clock.pass_time(seconds=1)
    assert fleet.sweep() == 0
    with pytest.raises(Conflict):
        fleet.rotate()
    fleet.world.registry.fail_at = ""
    assert fleet.sweep() == 1
    assert fleet.at_the_broker == {second.certificate.id: "ACTIVE"}


def test_one_rotation_at_a_time(fleet: Fleet) -> None:
    fleet.rotate()
    with pytest.raises(Conflict) as refused:
        fleet.rotate()
    assert refused.value.code == "ROTATION_UNDER_WAY"
    assert len(fleet.at_the_broker) == 2
    with pytest.raises(NotFound):
        fleet.service.rotate(open_account(), fleet.device_id)
    fleet.world.devices.delete(fleet.world.user, fleet.device_id)
    with pytest.raises(NotFound):
        fleet.rotate()
    fleet.world.clock.pass_time(days=2)
    fleet.sweep()
    assert (fleet.at_the_broker, fleet.rotations.get(fleet.device_id)) == ({}, None)


def test_an_idempotency_key_makes_one_certificate(fleet: Fleet) -> None:
    user = fleet.world.user
    made = fleet.rotate(idempotency_key=key("k", user))
    with pytest.raises(AlreadyCreated) as repeated:
        fleet.rotate(idempotency_key=key("k", user))
    assert repeated.value.details == {"id": made.certificate.id}
    with pytest.raises(IdempotencyKeyReused):
        fleet.rotate(idempotency_key=key("k", user), csr="another")
    fleet.service.remove(user, fleet.device_id, made.certificate.id)
    with pytest.raises(Gone):
        fleet.rotate(idempotency_key=key("k", user))
    assert fleet.ids == [fleet.first.certificate.id]


@pytest.mark.parametrize("step", ["endpoint", "create_certificate", "attach_certificate"])
def test_a_rotation_that_fails_leaves_the_old_certificate_alone(fleet: Fleet, step: str) -> None:
    fleet.world.registry.fail_at = step
    with pytest.raises(Upstream):
        fleet.rotate()
    fleet.world.registry.fail_at = ""
    assert (fleet.ids, fleet.at_the_broker) == ([fleet.first.certificate.id], {fleet.first.certificate.id: "ACTIVE"})
    assert fleet.rotations.get(fleet.device_id) is None
    fleet.rotate()


def test_what_became_of_a_certificate_is_told_once_each(fleet: Fleet) -> None:
    def image() -> Any:
        return next((each for each in fleet.world.items() if each["type"]["S"] == "certificate_rotation"), None)

    images = [image()]
    second = fleet.rotate()
    images.append(image())
    fleet.world.connect(fleet.spoken_by(second))
    images.append(image())
    fleet.world.clock.pass_time(seconds=1)
    fleet.sweep()
    images.append(image())
    told = [source().happened(ItemChange(old, new)) for old, new in pairwise(images)]
    assert [each.type if each else None for each in told] == [
        "device.certificate_issued",
        "device.certificate_rotated",
        None,
    ]
    issued = told[0]
    assert issued is not None
    assert issued.user_id == fleet.world.user
    assert issued.data["certificate_id"] == second.certificate.id
    assert issued.data["replaces"] == fleet.first.certificate.id
    assert "private" not in str(issued.data)


POLICY = "karma-device"


@pytest.fixture
def signing_request() -> str:
    """Return a signing request, whose certificate is quicker than a key that the engine makes."""
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "EOS")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(own, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


class Registered:
    """A device in the engine's registry, made anew for each death of a crash test."""

    def __init__(self, stack: Stack, csr: str, *, clock: FakeClock) -> None:
        self.iot = stack.aws("iot")
        self.iot.create_policy(policyName=POLICY, policyDocument='{"Version": "2012-10-17", "Statement": []}')
        self.registry = IotRegistry(
            policy_name=POLICY, mqtt_host="mqtt.example.com", ca_pem="pem", data_endpoint_url=stack.engine.endpoint_url
        )
        self.world = World(stack, clock=clock)
        self.world.registry = self.registry  # type: ignore[assignment]
        self.csr = csr
        self.rotations = RotationRepository()
        self.service = CertificateService(self.world.repository, self.rotations, self.registry, clock)

    def device(self) -> str:
        """Make the device, with a certificate; of those before nothing is left."""
        from karma.devices.service import DeviceService

        for thing in self.iot.list_things()["things"]:
            self.registry.remove_thing(thing["thingName"])
        for each in self.iot.list_certificates()["certificates"]:
            self.registry.remove_certificate(each["certificateArn"])
        service = DeviceService(self.world.repository, self.registry, self.world.clock)
        new = new_device(serial_number="EOS-crash")
        made = service.create(self.world.user, new, allowance=allowance(self.world.user), csr=self.csr)
        return str(made.current.device.id)

    def left(self) -> Any:
        states = sorted(each["status"] for each in self.iot.list_certificates()["certificates"])
        return len(self.iot.list_thing_principals(thingName="EOS-crash")["principals"]), states


def comparable(item: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out what each try makes anew."""
    if item["type"] in {"device_counter", "device_request", "rotation_request"}:
        return None
    parts = [part for part in f"{item['pk']}|{item['sk']}".split("#") if "-" not in part]
    own = ("device_id", "gsi1sk", "gsi1pk", "attempt", "certificate_id", "certificate_arn", "old_certificate_id")
    blank = dict.fromkeys(own, "")
    numbers = {name: 0 for name in ("began_ms", "ends_ms", "removed_ms") if name in item}
    item.update({name: "" for name in blank if name in item}, **numbers)
    item["pk"], item["sk"] = "#".join(parts), ""
    for name in ("next_certificate_id", "removed_certificate_id", "rotation"):
        item[name] = bool(item.get(name))
    item["certificate_ids"] = len(item.get("certificate_ids", ()))
    return item


@pytest.mark.fault("F-31aa")
def test_a_sweep_that_dies_at_any_call_is_finished_by_the_next(stack: Stack, signing_request: str) -> None:
    stack.use("sweeps.devices")
    clock = FakeClock(datetime.now(UTC) - timedelta(hours=2))
    made = Registered(stack, signing_request, clock=clock)

    def seed() -> dict[str, str]:
        made.service.rotate(made.world.user, made.device(), csr=signing_request, overlap_s=60)
        return {"sweep": "rotations"}

    report = CrashTest(
        entry="background.sweeps.devices:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"], stack.tables["billing"]],
        seed=seed,
        normalise=comparable,
        other_state=made.left,
    ).run()
    assert {"iot.UpdateCertificate", "iot.DeleteCertificate", "dynamodb.TransactWriteItems"} <= set(report.calls)
    assert made.left() == (1, ["ACTIVE"])


@pytest.mark.fault("F-31aa")
def test_a_request_that_dies_at_any_call_leaves_two_certificates_after_its_repeat(
    stack: Stack, http_event: HttpEvent, lambda_context: Context, signing_request: str
) -> None:
    from api.handler import lambda_handler

    stack.use("api")
    made = Registered(stack, signing_request, clock=FakeClock(datetime.now(UTC)))

    def call(path: str, body: Any) -> Any:
        return json.loads(lambda_handler(http_event("POST", path, body=body), lambda_context)["body"])["data"]

    account = {"email": f"{new_id()}@example.com", "password": f"pass-{new_id()}"}
    made.world.user = UserId(call("/api/v1/auth/register", {**account, "name": "Ada"})["user"]["id"])
    token = call("/api/v1/auth/login", account)["access_token"]

    def seed() -> Any:
        return http_event(
            "POST",
            f"/api/v1/devices/{made.device()}/certificates",
            body={"csr": signing_request},
            headers={"authorization": f"Bearer {token}"},
        )

    def left() -> Any:
        principals, states = made.left()
        # One that a dead process made and tied to nothing is removed by the sweep of unused ones.
        return principals, [each for each in states if each == "ACTIVE"]

    report = CrashTest(
        entry="api.handler:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"], stack.tables["billing"]],
        seed=seed,
        normalise=comparable,
        other_state=left,
        accept=lambda answer: answer["statusCode"] in (201, 409),
    ).run()
    assert {"iot.CreateCertificateFromCsr", "iot.AttachThingPrincipal"} <= set(report.calls)
    assert left() == (2, ["ACTIVE", "ACTIVE"])

"""The whole backend, deployed once a session by the code of `make dev`, in a folder and on ports of its own.

Every test brings its own user. What this machine lacks skips the ring, by name.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from karma.billing.arrival import Arrival
from karma.billing.repository.arrivals import ArrivalRepository
from karma.core import aws as karma_aws
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_names
from karma.core.ids import UserId
from karma.devices.repository.devices import DeviceRepository
from karma.devices.service import Created, DeviceService
from karma_device.commands import Handler
from karma_device.config import DeviceConfig
from karma_device.device import Device
from karma_device.messages import Command, Json
from local import prerequisites
from local.api_client import ApiClient
from local.deployment import STREAM, Deployment, Given
from local.places import Places
from local.processes import no_proxy
from local.progress import Progress
from local.waiting import until
from tests.engines.choice import Choice
from tests.fakes.devices import FakeRegistry
from tests.support.devices import new_device
from tests.support.killed_runs import KilledRuns
from tests.support.plans import allowance
from tests.support.recorded_calls.deployed_calls import DeployedCalls
from tests.support.recorded_calls.plugin import read_golden, surprise_of

DEADLINE_S = 45
"""Machines that run tests are slow and busy; nothing here measures speed."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("late") is not None)
    here = f"{Path(__file__).parent}{os.sep}"
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.needs("functions"))
            if isinstance(item, pytest.Function) and "make_robot" in item.fixturenames:
                item.add_marker(pytest.mark.needs("iot"))


@pytest.fixture(scope="session")
def deployed_calls(tmp_path_factory: pytest.TempPathFactory) -> DeployedCalls:
    return DeployedCalls(tmp_path_factory.mktemp("calls"))


@pytest.fixture(autouse=True)
def known_calls(deployed_calls: DeployedCalls) -> Iterator[None]:
    """Fail the test after which a deployed function has done what the integration ring has not seen."""
    yield
    if surprise := surprise_of(deployed_calls.read(), read_golden()):
        pytest.fail(surprise, pytrace=False)


@pytest.fixture(scope="session")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, deployed_calls: DeployedCalls, engine_choice: Choice
) -> Iterator[Deployment]:
    try:
        prerequisites.check_node()
    except prerequisites.Missing as missing:
        pytest.skip(str(missing))
    base = tmp_path_factory.mktemp("karma", numbered=True)
    places = Places(base=base)
    for needed, name in (
        (places.engine_venv / "bin" / "ministack", "the AWS engine (.engine/venv)"),
        (places.stripe_venv / "bin" / "python", "the Stripe peer (.engine/stripe)"),
        (places.node_modules / "@copilotkit" / "aimock", "npm packages (node_modules)"),
    ):
        if not needed.exists():
            pytest.skip(f"{name} is not installed: run `make install`")
    os.environ.update(no_proxy())
    # Persistent, in the temporary folder: one test restarts the engine.
    given = Given(python_path=(deployed_calls.folder,))
    running = Deployment(places, persistent=True, given=given, progress=Progress(), platform=engine_choice.platform)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(base, ignore_errors=True)


@dataclass
class User:
    """Somebody who has just registered and logged in."""

    id: str
    email: str
    password: str
    token: str
    api: ApiClient


@pytest.fixture
def make_user(deployment: Deployment) -> Iterator[Callable[[], User]]:
    made: list[User] = []

    def make() -> User:
        made.append(_register(deployment))
        return made[-1]

    yield make
    for each in made:
        each.api.close()


@pytest.fixture
def user(make_user: Callable[[], User]) -> User:
    return make_user()


@pytest.fixture
def newcomer(deployment: Deployment) -> Iterator[User]:
    """Somebody whose address nobody has proven yet, so that its mail is still needed when it comes to be sent."""
    user = _register(deployment, is_verified=False)
    yield user
    user.api.close()


def _register(deployment: Deployment, *, is_verified: bool = True) -> User:
    api = ApiClient(deployment.addresses.api_url)
    email, password = f"user-{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16)
    user_id = api.call("POST", "/auth/register", {"email": email, "password": password, "name": "A User"})["user"]["id"]
    if is_verified:
        _verify(deployment, user_id)
    token = api.call("POST", "/auth/login", {"email": email, "password": password})["access_token"]
    api.close()
    api = ApiClient(deployment.addresses.api_url, token=token)
    return User(user_id, email, password, token, api)


def _verify(deployment: Deployment, user_id: str) -> None:
    """Let an account run agents without a mail, which not every engine sends."""
    given = deployment.engine.client_environment()
    client = boto3.client(
        "dynamodb",
        endpoint_url=deployment.engine.endpoint_url,
        region_name=deployment.engine.region,
        aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
    )
    client.update_item(
        TableName=deployment.tables["identity"],
        Key={"pk": {"S": f"USER#{user_id}"}, "sk": {"S": "PROFILE"}},
        UpdateExpression="SET email_verified = :yes",
        ExpressionAttributeValues={":yes": {"BOOL": True}},
    )
    client.close()


@dataclass
class Robot:
    """A device as its owner created it, with a real client of the device SDK connected."""

    id: str
    serial: str
    credentials: dict[str, Any]
    client: Device
    commands: list[Command] = field(default_factory=list)
    """Commands that it received, in order."""


@pytest.fixture
def robot(user: User, make_robot: Callable[..., Robot]) -> Robot:
    return make_robot(user)


@pytest.fixture
def make_robot(tmp_path: Path) -> Iterator[Callable[..., Robot]]:
    """Create a device by the API, connect the SDK over TLS, wait until it listens for commands."""
    made: list[Device] = []

    def make(user: User) -> Robot:
        serial = f"E2E-{secrets.token_hex(6)}"
        mac = ":".join(["02", *(f"{byte:02x}" for byte in secrets.token_bytes(5))])
        body = {"name": "Test robot", "model": "EOS-3A", "mac": mac, "serial_number": serial}
        data = user.api.call("POST", "/devices", body)
        config = DeviceConfig.from_credentials(
            data["credentials"], state_dir=tmp_path / serial, batch_max_age_s=0.2, heartbeat_interval_s=5.0
        )
        client = Device(config)
        robot = Robot(data["device"]["id"], serial, data["credentials"], client)
        lock = threading.Lock()

        def carry_out(command: Command) -> dict[str, Json]:
            with lock:
                robot.commands.append(command)
            return {"position": dict(command.params)}

        handler: Handler = carry_out
        client.command("move")(handler)
        client.command("ping")(handler)
        client.start()
        made.append(client)
        assert client.wait_ready(DEADLINE_S), "the device did not get through to the broker"
        return robot

    yield make
    for client in made:
        client.close()


@pytest.fixture(scope="session", autouse=True)
def forgotten_event(deployment: Deployment) -> str:
    """An event of Stripe's that is due and has no message; by the time of the last test a sweep has come by."""
    name, now = f"evt_{secrets.token_hex(8)}", datetime.now(UTC)
    arrival = Arrival(name, "product.created", '{"type": "product.created", "data": {"object": {}}}')
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in deployment.engine.client_environment().items():
            patch.setenv(variable, value)
        karma_aws.reset()
        bind_names(deployment.tables)
        ArrivalRepository().store(arrival, received_at=now - timedelta(minutes=3), due_at=now - timedelta(minutes=1))
        karma_aws.reset()
    return name


@pytest.fixture(scope="session", autouse=True)
def killed_runs(request: pytest.FixtureRequest, deployment: Deployment) -> KilledRuns | None:
    """Runs whose processes were killed before the first test; by the time of the last one they have gone on."""
    if not any(item.path.name == "test_lost_runs.py" for item in request.session.items):
        return None
    count = int(os.environ.get("KILLED") or 3)
    tokens = [_register(deployment).token for _ in range(KilledRuns.users(count))]
    runs = KilledRuns(deployment.addresses.stream_url, deployment.processes.running()[STREAM], tokens, count=count)
    runs.start()
    return runs


@pytest.fixture
def storage(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """The deployed tables, for repositories of this process."""
    for name, value in deployment.engine.client_environment().items():
        monkeypatch.setenv(name, value)
    karma_aws.reset()
    bind_names(deployment.tables)
    yield deployment
    karma_aws.reset()


@pytest.fixture
def device(user: User, storage: Deployment) -> Created:
    """A device that never connects: its row is the API's own, its certificate nobody's."""
    devices = DeviceService(DeviceRepository(), FakeRegistry(), SystemClock())
    return devices.create(UserId(user.id), new_device(), allowance=allowance(UserId(user.id)))


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Poll until the answer is truthy."""

    def poll(attempt: Callable[[], Any], what: str = "a truthy answer") -> Any:
        return until(lambda: attempt() or None, deadline_s=DEADLINE_S, what=what, pause_s=0.1)

    return poll

"""Fixtures of the device SDK's tests. They are here and not in `tests/`, where the module name would be taken twice."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from karma_device.config import DeviceConfig
from karma_device.device import Device
from karma_device_testing.cloud import ENGINE, Broker, Cloud, Ingest, MakeDevice
from karma_device_testing.firmware import Shop


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Start one engine for the session."""
    if not ENGINE.exists():
        pytest.skip(f"the local engine is not installed ({ENGINE}); `make dev` or `make test` installs it")
    broker = Broker(tmp_path_factory.mktemp("broker"))
    try:
        broker.start()
        broker.prepare()
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def credentials(broker: Broker) -> dict[str, Any]:
    """Create a new thing with its certificate."""
    return broker.create_thing()


@pytest.fixture
def cloud(broker: Broker, credentials: dict[str, Any]) -> Iterator[Cloud]:
    """Watch the test's thing and send it commands."""
    cloud = Cloud(broker, credentials)
    yield cloud
    cloud.close()


@pytest.fixture
def ingest(broker: Broker, credentials: dict[str, Any]) -> Ingest:
    """Read what the IoT rule put on the queue for the test's thing."""
    return Ingest(broker, credentials["thing_name"])


QUICK: dict[str, Any] = {
    "batch_max_age_s": 0.1,
    "reconnect_min_s": 0.05,
    "reconnect_max_s": 0.5,
    "heartbeat_interval_s": 0.0,
}


@pytest.fixture
def make_device(credentials: dict[str, Any], tmp_path: Path) -> Iterator[MakeDevice]:
    """Make devices of the test's thing that are closed at its end, of DeviceConfig's fields and an `updater`."""
    with ExitStack() as stack:

        def make(**overrides: Any) -> Device:
            settings = {**QUICK, "state_dir": tmp_path / "state", **overrides}
            given, updater = {**credentials, **settings.pop("credentials", {})}, settings.pop("updater", None)
            device = Device(DeviceConfig.from_credentials(given, **settings), updater=updater)
            stack.callback(device.close)
            return device

        yield make


@pytest.fixture
def shop() -> Iterator[Shop]:
    """Serve firmware on a free port."""
    server = Shop()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()

"""The engine stops and starts again: nothing is lost, and nothing stays deaf."""

from collections.abc import Callable
from typing import Any

import pytest

from local.api_client import ApiClient
from local.deployment import Deployment

from .conftest import Robot, User


@pytest.mark.req("R-K-02")
@pytest.mark.needs("state")
def test_a_restarted_engine_keeps_its_data_and_goes_on(
    user: User, robot: Robot, deployment: Deployment, eventually: Callable[..., Any]
) -> None:
    robot.client.record({"temp_c": 20.0})
    robot.client.flush()
    eventually(lambda: user.api.call("GET", f"/devices/{robot.id}/latest")["latest"], "a reading before the restart")

    deployment.restart_engine()

    with ApiClient(deployment.addresses.api_url) as api:
        api.log_in(user.email, user.password)
        (device,) = api.call("GET", "/devices")["devices"]
        assert device["id"] == robot.id
        # The list's total is folded from the table's stream, which has to be read again from the start.
        total = api.call("GET", "/devices")["total"]
        body = {"name": "Second", "model": "EOS-3A", "mac": "02:00:00:00:00:01", "serial_number": f"{robot.serial}-2"}
        api.call("POST", "/devices", body)
        eventually(lambda: api.call("GET", "/devices")["total"] == total + 1, "the second device counted")

        def fresh() -> bool:
            robot.client.record({"temp_c": 21.0})
            robot.client.flush()
            latest: dict[str, Any] = api.call("GET", f"/devices/{robot.id}/latest")["latest"]
            return bool(latest["temp_c"]["value"] == 21.0)

        eventually(fresh, "a reading after the restart")

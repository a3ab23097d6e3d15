"""Deployed functions run under their roles, and the engine refuses what a role does not allow (`AUTH=true`).

So each test of this ring shows that the roles lack nothing that it needs. What it saw is compared with the calls that
the integration ring recorded, from which tests/infra shows that the roles have nothing else.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infra.catalog import FunctionName
from local.deployment import Deployment
from tests.support.recorded_calls.deployed_calls import DeployedCalls
from tests.support.recorded_calls.needs import Need

from .conftest import User

pytestmark = pytest.mark.needs("iam")


@contextmanager
def without(iam: Any, role: str, sid: str, action: str) -> Iterator[None]:
    """Take one action from a deployed role for a while."""
    before = iam.get_role_policy(RoleName=role, PolicyName="grants")["PolicyDocument"]
    less = json.loads(json.dumps(before))
    for statement in less["Statement"]:
        if statement["Sid"] == sid:
            held = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            statement["Action"] = [each for each in held if each != action]
    less["Statement"] = [statement for statement in less["Statement"] if statement["Action"]]
    assert less != before
    iam.put_role_policy(RoleName=role, PolicyName="grants", PolicyDocument=json.dumps(less))
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName="grants", PolicyDocument=json.dumps(before))


@pytest.fixture
def sweep(deployment: Deployment) -> Callable[[], dict[str, Any]]:
    """Call the function that looks for bills not handled; it asks for one index, and for nothing when that is empty."""
    client = deployment.adapter.client("lambda")
    name = deployment.outputs["FunctionBackgroundSweepsQueues"]

    def call() -> dict[str, Any]:
        answer = client.invoke(FunctionName=name, Payload=json.dumps({"sweep": "inbox"}))
        told: dict[str, Any] = json.loads(answer["Payload"].read())
        return told

    return call


def test_a_function_is_refused_what_is_taken_from_its_role(
    deployment: Deployment, sweep: Callable[[], dict[str, Any]]
) -> None:
    name = deployment.outputs["FunctionBackgroundSweepsQueues"]
    arn = deployment.adapter.client("lambda").get_function_configuration(FunctionName=name)["Role"]
    assert "changed" in sweep()
    with without(deployment.adapter.client("iam"), arn.rpartition("/")[2], "IndexBilling", "dynamodb:Query"):
        refused = sweep()
    assert "AccessDeniedException" in refused["errorMessage"] + str(refused.get("stackTrace"))
    assert "dynamodb:Query" in str(refused)
    assert "changed" in sweep()


def test_what_deployed_functions_ask_for_is_recorded(user: User, deployed_calls: DeployedCalls) -> None:
    user.api.call("GET", "/devices")
    heard = deployed_calls.read().calls
    assert Need("dynamodb:Query", "table/devices") in heard[FunctionName.API]
    assert Need("secretsmanager:GetSecretValue", "secret/auth") in heard[FunctionName.API]

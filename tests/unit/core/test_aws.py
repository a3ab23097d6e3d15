"""A process has one AWS client for each service, and uses none that was made before its snapshot was restored."""

from collections.abc import Iterator
from typing import Any

import pytest

from karma.core import aws
from karma.core.dynamo.items import connection_of
from karma.core.dynamo.tables import bind_names
from karma.core.runtime.snapshot import run_after_restore
from karma.devices.repository.items import DevicesItem


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "000000000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    aws.reset()
    yield
    aws.reset()


@pytest.mark.req("R-M-25")
def test_a_process_has_one_client_a_service_with_a_pool_and_limits() -> None:
    client = aws.client("dynamodb")
    config: Any = client.meta.config
    assert aws.client("dynamodb") is client
    assert config.max_pool_connections == 50
    assert (config.connect_timeout, config.read_timeout) == (2, 5)
    assert config.retries == {"total_max_attempts": 3, "mode": "standard"}


@pytest.mark.parametrize("service", ["dynamodb", "sqs", "s3", "apigatewaymanagementapi"])
def test_no_client_composes_its_name_for_each_request(service: Any) -> None:
    """botocore composes one of twenty parts twice a request, unless it is given one: an eighth of a call's CPU."""
    assert aws.client(service, endpoint_url="https://aws.invalid").meta.config.user_agent.startswith("karma ")


def client_of_repositories() -> object:
    return connection_of(DevicesItem).connection.client


@pytest.mark.req("R-M-27")
def test_a_restored_clone_shares_no_client_with_its_snapshot() -> None:
    bind_names({"devices": "devices-of-the-stage"})
    before = client_of_repositories()
    assert before is aws.client("dynamodb")
    run_after_restore()
    after = client_of_repositories()
    assert after is aws.client("dynamodb")
    assert after is not before
    assert DevicesItem.Meta.table_name == "devices-of-the-stage"

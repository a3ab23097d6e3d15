"""The file that tells people and programs where everything is."""

import json
from pathlib import Path

import pytest

from local.outputs import Demo, Model, Outputs, Stripe

EXPECTED = {
    "api_url": str,
    "stream_url": str,
    "websocket_url": str,
    "billing_webhook_url": str,
    "mqtt_host": str,
    "mqtt_port": int,
    "mqtt_ca": str,
    "region": str,
    "endpoint_url": str,
    "stage": str,
    "tables": dict,
    "bucket": str,
    "demo": dict,
    "stripe": dict,
    "model": dict,
}


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(
        api_url="http://127.0.0.1:1",
        stream_url="http://127.0.0.1:2",
        websocket_url="ws://localhost:3/live",
        billing_webhook_url="http://localhost:3/webhooks/stripe",
        mqtt_host="localhost",
        mqtt_port=8883,
        mqtt_ca=str(tmp_path / "ca.pem"),
        region="us-east-1",
        endpoint_url="http://localhost:3",
        stage="local",
        tables={"devices": "d"},
        bucket="b",
        demo=Demo(email="demo@example.com", password="p", user_id="u", device_id="d", serial="s", api_key="k"),
        stripe=Stripe(base_url="http://127.0.0.1:5", api_key="sk_test_x", webhook_secret="whsec_x"),
        model=Model(base_url="http://127.0.0.1:4"),
    )


def test_it_has_exactly_the_documented_fields(outputs: Outputs, tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    outputs.write(path)
    written = json.loads(path.read_text())
    assert {name: type(value) for name, value in written.items()} == EXPECTED
    assert set(written["demo"]) == {"email", "password", "user_id", "device_id", "serial", "api_key"}
    assert set(written["stripe"]) == {"base_url", "api_key", "webhook_secret"}


def test_it_reads_back_and_only_its_owner_may_read_it(outputs: Outputs, tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    outputs.write(path)
    assert Outputs.read(path) == outputs
    assert path.stat().st_mode & 0o777 == 0o600

from __future__ import annotations

from dataclasses import dataclass

from karma.core.settings import FunctionSettings


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """What the API is given; infra/grants.py grants what these names need."""

    identity_table: str
    devices_table: str
    telemetry_table: str
    agents_table: str
    billing_table: str
    realtime_table: str
    model_id: str
    """What the built-in agent runs on."""
    auth_secret_arn: str
    """JSON `{"current": kid, kid: key, ...}`; every kid is accepted, `current` signs."""
    inbox_queue_url: str = ""
    device_policy_name: str = ""
    mqtt_host: str = ""
    mqtt_port: int = 8883
    mqtt_ca_pem: str = ""
    iot_data_endpoint: str = ""
    websocket_url: str = ""
    """Complete `wss://` URL; empty: the ticket route answers 503."""
    origin_secret_arn: str = ""
    """JSON `{"secrets": [...]}`; empty: no origin header is asked for (stages without CloudFront)."""

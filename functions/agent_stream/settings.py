from __future__ import annotations

from dataclasses import dataclass

from karma.core.settings import FunctionSettings


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """What the stream function is given; infra/grants.py grants what these names need."""

    identity_table: str
    devices_table: str
    agents_table: str
    billing_table: str
    auth_secret_arn: str
    """JSON `{"current": kid, kid: key, ...}`; every kid is accepted."""
    model_secret_arn: str
    """JSON `{"api_key": "..."}`; empty: runs are answered 503 MODEL_NOT_CONFIGURED."""
    model_base_url: str = ""
    """Empty: the API's own."""
    model_id: str = "claude-sonnet-5-5"
    files_bucket: str
    """Device files that users show to agents, and what conversations refer to."""
    runs_queue_url: str
    ingest_queue_url: str
    iot_data_endpoint: str = ""
    origin_secret_arn: str = ""
    """JSON `{"secrets": [...]}`; empty: no origin header is asked for (stages without CloudFront)."""

from __future__ import annotations

from dataclasses import dataclass

from karma.core.settings import FunctionSettings


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings(FunctionSettings):
    """Variables of whatever executes runs; infra/grants.py grants access to the resources that they name."""

    devices_table: str
    agents_table: str
    billing_table: str
    model_secret_arn: str
    """ARN of a secret with JSON `{"api_key": "..."}`; empty: runs are answered 503 MODEL_NOT_CONFIGURED."""
    model_base_url: str = ""
    """Address of the model's API; empty: Anthropic's own."""
    model_id: str = "claude-sonnet-5-5"
    files_bucket: str
    """Bucket of device files that users show to agents, and of attachments of conversations."""
    executions_queue_url: str
    ingest_queue_url: str
    iot_data_endpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings(ExecutionSettings):
    """Variables of the stream function."""

    identity_table: str
    auth_secret_arn: str
    """ARN of a secret with JSON `{"current": kid, kid: key, ...}`; every kid is accepted."""
    runs_queue_url: str
    origin_secret_arn: str = ""
    """ARN of a secret with JSON `{"secrets": [...]}`; empty: no origin header is required (stages without CloudFront).
    """

from __future__ import annotations

from karma.core.settings import FunctionSettings


class ExecutionSettings(FunctionSettings, kw_only=True):
    """Variables of whatever executes runs; infra/grants.py grants access to the resources that they name."""

    identity_table: str
    devices_table: str
    work_table: str
    agents_table: str
    billing_table: str
    search_table: str
    model_secret_arn: str
    """ARN of a secret with JSON `{"api_key": "..."}`; empty: runs are answered 503 MODEL_NOT_CONFIGURED."""
    model_base_url: str = ""
    """Address of the model's API; empty: Anthropic's own."""
    model_id: str = "claude-sonnet-5-5"
    files_bucket: str
    """Bucket of device files that users show to agents, and of attachments of conversations."""
    runs_queue_url: str
    executions_queue_url: str
    short_work_queue_url: str
    execution_workers: int = 50
    """Processes of the function of executions for accounts that pay, at the most."""
    ingest_queue_url: str
    segments_queue_url: str
    iot_data_endpoint: str = ""
    vault_key_arn: str
    """Key of KMS that encrypted headers of MCP servers; its alias will do."""
    mcp_loopback: str = ""
    """Not empty: MCP servers of this machine may be asked. For stages on a developer's machine."""


class WorkerSettings(ExecutionSettings, kw_only=True):
    """Variables of the function of executions."""

    free_runs_queue_url: str = ""
    """Queue of the runs of free plans, which have processes of their own; empty: they share those of all plans."""


class Settings(ExecutionSettings, kw_only=True):
    """Variables of the stream function."""

    realtime_table: str
    auth_secret_arn: str
    """ARN of a secret with JSON `{"current": kid, kid: key, ...}`; every kid is accepted."""
    origin_secret_arn: str = ""
    """ARN of a secret with JSON `{"secrets": [...]}`; empty: no origin header is required (stages without CloudFront).
    """

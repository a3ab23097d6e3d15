from __future__ import annotations

from karma.core.settings import FunctionSettings


class Settings(FunctionSettings, kw_only=True):
    """Variables of the API; infra/grants.py grants access to the resources that they name."""

    identity_table: str
    devices_table: str
    telemetry_table: str
    work_table: str
    agents_table: str
    billing_table: str
    realtime_table: str
    search_table: str
    files_bucket: str
    files_queue_url: str
    ingest_queue_url: str
    runs_queue_url: str
    executions_queue_url: str
    telemetry_queue_url: str
    segments_queue_url: str
    model_id: str
    """Id of the built-in agent's model."""
    vault_key_arn: str
    """Key of KMS that encrypts headers of MCP servers and secrets of webhooks; its alias will do."""
    mcp_loopback: str = ""
    """Not empty: MCP servers of this machine may be named, by http:// too. For stages on a developer's machine."""
    webhook_loopback: str = ""
    """Not empty: webhooks may lead to this machine, by http:// too. As `mcp_loopback`."""
    auth_secret_arn: str
    """ARN of a secret with JSON `{"current": kid, kid: key, ...}`; every kid is accepted, `current` signs."""
    inbox_queue_url: str = ""
    deletions_queue_url: str = ""
    webhooks_queue_url: str = ""
    mail_queue_url: str
    device_policy_name: str = ""
    claim_policy_name: str = ""
    provisioning_template: str = ""
    mqtt_host: str = ""
    mqtt_port: int = 8883
    mqtt_ca_pem: str = ""
    basic_ingest_rule: str = ""
    """Rule to which devices may publish telemetry, as they are told; empty: none."""
    iot_data_endpoint: str = ""
    websocket_url: str = ""
    """Complete `wss://` URL; empty: the ticket route answers 503."""
    origin_secret_arn: str = ""
    """ARN of a secret with JSON `{"secrets": [...]}`; empty: no origin header is required (stages without CloudFront).
    """
    api_url: str = ""
    """Address at which browsers and OAuth providers reach this API; empty: there are no logins through providers."""
    frontend_origins: str = ""
    """Origins of our web frontends, with commas between; logins through providers end at the first one's front page."""
    oauth_secret_arn: str = ""
    """ARN of a secret, JSON `{"github": {"client_id": .., "client_secret": ..}, "google": {..}}`; an absent provider
    answers 503.
    """
    github_url: str = "https://github.com"
    github_api_url: str = "https://api.github.com"
    google_issuer: str = "https://accounts.google.com"

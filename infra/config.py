"""Typed values of each stage.

Everything that differs between stages is a field of `StageSettings`, so that a construct never compares stage names.
The local stage leaves out what the embedded engine refuses or drops; an operator's or the local environment's own
values come from a JSON file.
"""

import dataclasses
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parent.parent


class Stage(StrEnum):
    """The kinds of deployment; two of them never share an AWS account (IoT rules and topics are account-wide)."""

    LOCAL = "local"
    LOCALSTACK = "localstack"
    """The local stage without what LocalStack's community edition lacks: a second engine under the same tests."""
    DEV = "dev"
    PROD = "prod"


LEAST_WORKERS = 10
"""Processes at the least, so that nobody has all of those for free accounts."""


class SettingsError(ValueError):
    """A settings file has an unknown, wrong or missing field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Fields of a settings file. Each is optional; an unknown one is refused."""

    mqtt_host: str = ""
    """Broker that devices connect to; empty: the account's `iot:Data-ATS` endpoint, asked for at run time."""
    mqtt_port: int = 8883
    mqtt_ca_pem: str = ""
    """Text of the broker's CA certificate; empty: Amazon Root CA 1."""
    iot_data_endpoint: str = ""
    model_base_url: str = ""
    model_id: str = "claude-sonnet-5-5"
    stripe_api_base: str = ""
    payment_retry_days: int = 14
    """Days for which Stripe retries a failed payment, as set in its dashboard; access lasts three days longer."""
    execution_workers: int = 50
    """Processes that execute runs without a client, at the most, for accounts that pay; free ones have half as many.

    From 10 in stages on AWS: below that, one free account would have all of the free ones (docs/adr/0049).
    """
    websocket_url: str = ""
    """WebSocket URL that clients are told; empty: the WebSocket API's own address."""
    cors_origins: tuple[str, ...] = ()
    asset_bucket: str = ""
    """Bucket of the function and layer archives; empty: the one of `cdk bootstrap`."""
    layer_python: str = ""
    """Interpreter for which the host-built dependency layers are made; empty: `.engine/venv/bin/python`."""
    model_api_key: str = ""
    stripe_api_key: str = ""
    stripe_webhook_secrets: tuple[str, ...] = ()
    alarm_email: str = ""
    mail_sender: str = ""
    """From header of mails, e.g. `Karma <no-reply@example.com>`; its domain is verified with SES."""
    public_url: str = ""
    """Address of the web application, which links in mails lead to; empty: the first of the origins."""
    public_domain: str = ""
    """Host name of the CloudFront distribution; needs `certificate_arn` (us-east-1)."""
    certificate_arn: str = ""
    public_api_url: str = ""
    """URL of the API for browsers and OAuth providers, without a slash at its end; empty: by `public_domain`, and
    without that there is no login through a provider (CloudFront names its host after the first deployment only).
    """
    github_url: str = ""
    """Another GitHub's address, with `github_api_url`; empty: github.com."""
    github_api_url: str = ""
    google_issuer: str = ""
    """Another OpenID Provider in Google's place; empty: accounts.google.com."""

    @classmethod
    def load(cls, path: Path | None) -> "Overrides":
        """Read a settings file.

        Raises:
            SettingsError: the file is not a JSON object, or has an unknown field or one of the wrong type.
        """
        if path is None:
            return cls()
        try:
            document: object = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as exc:
            raise SettingsError(f"{path}: {exc}") from exc
        if not isinstance(document, dict):
            raise SettingsError(f"{path}: expected a JSON object")
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for name, value in document.items():
            if name not in hints:
                raise SettingsError(f"{path}: unknown field {name!r}")
            values[name] = _checked(path, name, hints[name], value)
        return cls(**values)


def _checked(path: Path, name: str, hint: object, value: object) -> object:
    if get_origin(hint) is tuple:
        (element, _) = get_args(hint)
        if isinstance(value, list) and all(isinstance(item, element) for item in value):
            return tuple(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not isinstance(value, bool):
        return value
    raise SettingsError(f"{path}: field {name!r} has the wrong type {type(value).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiIds:
    """Fixed API ids of the embedded engine (tag `ms-custom-id`, 8 hex digits): addresses known before deployment."""

    http: str
    billing_webhook: str
    websocket: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """All settings in which stages may differ."""

    stage: Stage
    overrides: Overrides

    retain_data: bool
    """Tables, bucket, secrets and key survive the deletion of their stack."""
    deletion_protection: bool
    point_in_time_recovery: bool
    log_retention_days: int
    log_level: str
    log_sample_rate: float
    """Share of processes that log at level DEBUG."""
    cors_origins: tuple[str, ...]
    loopback_origins: tuple[str, ...]
    """Origins with any port, besides `cors_origins`, for S3 and our own code, which support such patterns. API Gateway
    and function URLs do not; on this machine `local.front` and `local.streamhost` answer in their place.
    """
    mail_sender: str

    released: bool
    """Publish versions, call them by the alias `live`, moved by canary. Off: callers reach the function itself."""
    snap_start: bool
    tracing: bool
    reserved_streams: int | None
    """Concurrent invocations reserved for the stream function, and its limit; None: no reservation."""
    managed_stream_runtime: bool
    """Managed Python runtime with an exec wrapper; off: `provided.al2023` with a root `bootstrap`."""
    host_layers: bool
    """Dependency layers for this machine's interpreter instead of arm64 Lambda."""
    tls_only: bool
    """Refuse plain HTTP at queues, topics and buckets; the embedded engine has nothing but plain HTTP."""
    access_logs: bool
    route_responses: bool
    """WebSocket answers on the caller's own connection; the embedded engine answers anyway, but refuses
    templates that say so."""
    edge: bool
    """Put API and stream URL under one CloudFront host and ask for its secret header."""
    operations: bool
    """Alarms, dashboard and topic."""
    http_apis: bool
    """API Gateway v2; off: function URLs, which send functions the same events (payload 2.0)."""
    websockets: bool
    """WebSocket API in front of the realtime function, which is there in any case."""
    iot: bool
    """Device policy and IoT rules; the queue that rules send to is there in any case."""
    mail_identities: bool
    """The sender's identity and rules in SES; the queue of mails and its consumer are there in any case."""
    api_ids: ApiIds | None
    asset_bucket: str | None

    @property
    def stack_prefix(self) -> str:
        """Return the first part of every stack's name."""
        return f"karma-{self.stage}"

    @property
    def public_url(self) -> str:
        """Return the URL of the web application, without a slash at its end."""
        return (self.overrides.public_url or self.cors_origins[0]).rstrip("/")

    @property
    def rule_prefix(self) -> str:
        """Return the first part of every IoT rule's name; rule names have no hyphens."""
        return f"karma_{self.stage}"

    @property
    def provisioning_template(self) -> str:
        """Return the name of the template of fleet provisioning, at most 36 characters; it stands in topics."""
        return f"{self.stack_prefix}-fleet"

    @property
    def basic_ingest_rule(self) -> str:
        """Return the rule to which devices may publish their telemetry directly."""
        return f"{self.rule_prefix}_data"


LOCAL_ASSET_BUCKET = "karma-local-assets"
DEFAULT_SENDER = "Karma <no-reply@example.com>"
LOOPBACK_ORIGINS = tuple(
    f"{scheme}://{host}{port}"
    for host in ("localhost", "127.0.0.1", "[::1]")
    for scheme in ("http", "https")
    for port in ("", ":*")
)
"""Origins of a front end under development: any port of this machine."""
LOCAL_ORIGINS = ("http://localhost:3000", "http://127.0.0.1:3000", "http://localhost:5173", "http://127.0.0.1:5173")


PROD_NEEDS: dict[str, tuple[str, object]] = {
    "cors_origins": ("origins of the web application; links in mails lead to the first", ["https://app.example.com"]),
    "public_domain": ("host name under which clients reach the API and the stream", "api.example.com"),
    "certificate_arn": (
        "ACM certificate of public_domain, in us-east-1",
        "arn:aws:acm:us-east-1:123456789012:certificate/…",
    ),
    "mail_sender": ("sender of every mail; its domain is verified with SES", "Karma <no-reply@example.com>"),
    "alarm_email": ("who is told of alarms", "ops@example.com"),
}
"""Fields of `Overrides` that production needs: description and example of each."""


def refuse_incomplete(given: Overrides) -> None:
    """Refuse a production stage without a public address, a mail sender or a receiver of alarms.

    Raises:
        SettingsError: fields are missing; the message names all of them, and the file for them.
    """
    missing = {name: need for name, need in PROD_NEEDS.items() if not getattr(given, name)}
    if missing:
        lines = [
            f"  {json.dumps(name)}: {json.dumps(like, ensure_ascii=False)}    {what}"
            for name, (what, like) in missing.items()
        ]
        raise SettingsError(
            "prod needs values that no default can stand for. Write them into a JSON file, and name it: "
            "make synth STAGE=prod SETTINGS=prod.json (all fields: Overrides in infra/config.py). Missing:\n"
            + "\n".join(lines)
        )


def stage_settings(stage: Stage, overrides: Overrides | None = None) -> StageSettings:
    """Return the settings of one stage, overridden by those of a settings file.

    Raises:
        SettingsError: a custom domain is incomplete, a number is too low, or prod has secrets in the file or lacks a
            field of `PROD_NEEDS`.
    """
    given = overrides or Overrides()
    if stage is not Stage.PROD and bool(given.public_domain) != bool(given.certificate_arn):
        raise SettingsError("public_domain and certificate_arn are set together or not at all")
    if stage in {Stage.DEV, Stage.PROD} and given.execution_workers < LEAST_WORKERS:
        raise SettingsError(f"execution_workers must be at least {LEAST_WORKERS}")
    match stage:
        case Stage.LOCAL:
            return _local_settings(stage, given)
        case Stage.LOCALSTACK:
            return dataclasses.replace(
                stage_settings(Stage.LOCAL, given),
                stage=stage,
                http_apis=False,
                websockets=False,
                iot=False,
                mail_identities=False,
                api_ids=None,
            )
        case Stage.DEV:
            return _aws_settings(stage, given)
        case Stage.PROD:
            if given.model_api_key or given.stripe_api_key or given.stripe_webhook_secrets:
                raise SettingsError("prod takes no secrets from a file: put them into Secrets Manager")
            refuse_incomplete(given)
            return dataclasses.replace(
                _aws_settings(stage, given),
                retain_data=True,
                deletion_protection=True,
                log_retention_days=90,
                reserved_streams=200,
            )


def _local_settings(stage: Stage, given: Overrides) -> StageSettings:
    return StageSettings(
        stage=stage,
        overrides=given,
        retain_data=False,
        deletion_protection=False,
        point_in_time_recovery=False,
        log_retention_days=1,
        log_level="INFO",
        log_sample_rate=0.0,
        cors_origins=given.cors_origins or LOCAL_ORIGINS,
        loopback_origins=LOOPBACK_ORIGINS,
        mail_sender=given.mail_sender or DEFAULT_SENDER,
        released=False,
        snap_start=False,
        tracing=False,
        reserved_streams=None,
        managed_stream_runtime=False,
        host_layers=True,
        tls_only=False,
        access_logs=False,
        route_responses=False,
        edge=False,
        operations=False,
        http_apis=True,
        websockets=True,
        iot=True,
        mail_identities=True,
        api_ids=ApiIds(http="4b61726d", billing_webhook="4b617262", websocket="4b617277"),
        asset_bucket=given.asset_bucket or LOCAL_ASSET_BUCKET,
    )


def _aws_settings(stage: Stage, given: Overrides) -> StageSettings:
    return StageSettings(
        stage=stage,
        overrides=given,
        retain_data=False,
        deletion_protection=False,
        point_in_time_recovery=True,
        log_retention_days=14,
        log_level="INFO",
        log_sample_rate=0.01,
        cors_origins=given.cors_origins or ("http://localhost:3000", "https://dev.example.com"),
        loopback_origins=(),
        mail_sender=given.mail_sender or DEFAULT_SENDER,
        released=True,
        snap_start=True,
        tracing=True,
        reserved_streams=20,
        managed_stream_runtime=True,
        host_layers=False,
        tls_only=True,
        access_logs=True,
        route_responses=True,
        edge=True,
        operations=True,
        http_apis=True,
        websockets=True,
        iot=True,
        mail_identities=True,
        api_ids=None,
        asset_bucket=given.asset_bucket or None,
    )

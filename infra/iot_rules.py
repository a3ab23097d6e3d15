"""The rules of IoT Core, as data: which topics come to us, and with what beside the payload."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSpec:
    """One IoT rule, with the topic that it selects."""

    name: str
    topic_filter: str
    queue: str = "ingest"
    """Queue that gets its messages: `ingest`, or `asks`."""


IOT_RULES: tuple[RuleSpec, ...] = (
    RuleSpec(name="data", topic_filter="dt/karma/+/+"),
    RuleSpec(name="ready", topic_filter="cmd/karma/+/ready"),
    RuleSpec(name="response", topic_filter="cmd/karma/+/response"),
    RuleSpec(name="presence", topic_filter="$aws/events/presence/+/+"),
    RuleSpec(name="settings", topic_filter="$aws/things/+/shadow/name/settings/update/documents"),
    RuleSpec(name="ask", topic_filter="file/karma/+/ask", queue="asks"),
)
IOT_SQL_VERSION = "2016-03-23"
"""Stated because CloudFormation's default is the version of 2015."""
IOT_SELECT = (
    "SELECT encode(*, 'base64') AS payload_b64, topic() AS topic, principal() AS principal, "
    "timestamp() AS received_ms FROM '{}'"
)

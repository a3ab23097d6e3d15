"""Layout of the MQTT topics.

dt/karma/<thing>/{telemetry,heartbeat,event}      device -> cloud; also under $aws/rules/<rule>/ (Basic Ingest)
cmd/karma/<thing>/{ready,response}                device -> cloud
cmd/karma/<thing>/request                         cloud -> device
file/karma/<thing>/ask                            device -> cloud, to a queue of its own (karma.files.by_device)
file/karma/<thing>/answer                         cloud -> device
$aws/events/presence/{connected,disconnected}/<client id>
$aws/things/<thing>/shadow/name/settings/update/documents      the broker's own, after each change of settings

The thing's name, the client's id and the device's serial number are one. infra/constructs/iot_ingest.py forwards them.
"""

from __future__ import annotations

from typing import NamedTuple

_DATA_KINDS = frozenset({"telemetry", "heartbeat", "event"})
_COMMAND_KINDS = frozenset({"ready", "response"})


class TopicSource(NamedTuple):
    """Kind of a message and the thing that sent it, as its topic says."""

    kind: str
    thing: str


def read_topic(topic: str) -> TopicSource | None:
    """Read the topic of a message that a rule forwarded; None when it is not one of ours."""
    levels = topic.split("/")
    if levels[:2] == ["$aws", "rules"]:
        levels = levels[3:]
    match levels:
        case ["dt", "karma", thing, kind] if kind in _DATA_KINDS and thing:
            return TopicSource(kind, thing)
        case ["cmd", "karma", thing, kind] if kind in _COMMAND_KINDS and thing:
            return TopicSource(kind, thing)
        case ["$aws", "events", "presence", _, thing] if thing:
            return TopicSource("presence", thing)
    return None


def request_topic(thing: str) -> str:
    """Return the topic on which a device receives commands."""
    return f"cmd/karma/{thing}/request"


def response_topic(thing: str) -> str:
    """Return the topic on which a device answers them."""
    return f"cmd/karma/{thing}/response"


def reporting_thing(topic: str) -> str | None:
    """Return the thing whose settings have changed, as the broker tells on this topic; None: it is another topic."""
    match topic.split("/"):
        case ["$aws", "things", thing, "shadow", "name", "settings", "update", "documents"] if thing:
            return thing
    return None


def asking_thing(topic: str) -> str | None:
    """Return the thing that asks for its files on a topic; None when it is not the topic of such an ask."""
    match topic.split("/"):
        case ["file", "karma", thing, "ask"] if thing:
            return thing
    return None


def file_answer_topic(thing: str) -> str:
    """Return the topic on which a device hears what becomes of its asks for files."""
    return f"file/karma/{thing}/answer"

"""Secrets by ARN, as JSON objects, read from Secrets Manager and kept for at most five minutes.

Not through Powertools Parameters: importing it costs .14 of a boto3 client's start, at the first request of every
function that reads a secret (benchmarks/), for what is a dictionary with an age.
"""

from __future__ import annotations

import json

from karma.core import aws
from karma.core.clock import monotonic

_MAX_AGE_S = 300
_kept: dict[str, tuple[float, dict[str, object]]] = {}


class SecretUnusable(RuntimeError):
    """The secret is empty or is not a JSON object of strings; its content is never in the message."""


def get(arn: str) -> dict[str, object]:
    """Return a secret's JSON object, at most five minutes old.

    Raises:
        SecretUnusable: stored value is not a JSON object.
    """
    kept = _kept.get(arn)
    if kept is not None and monotonic() - kept[0] < _MAX_AGE_S:
        return kept[1]
    read_at = monotonic()
    raw = aws.client("secretsmanager").get_secret_value(SecretId=arn).get("SecretString", "")
    try:
        value = json.loads(raw)
    except ValueError:
        raise SecretUnusable(f"secret {arn} is not JSON") from None
    if not isinstance(value, dict):
        raise SecretUnusable(f"secret {arn} is not a JSON object")
    _kept[arn] = (read_at, value)
    return value


def strings(arn: str, field: str) -> tuple[str, ...]:
    """Return the non-empty strings of a list field, such as the values valid during a rotation; () when none is set."""
    if not arn:
        return ()
    found = get(arn).get(field, ())
    if not isinstance(found, list):
        return ()
    return tuple(text for text in found if isinstance(text, str) and text)


def string(arn: str, field: str) -> str:
    """Return a string field, "" when it is not set."""
    if not arn:
        return ""
    found = get(arn).get(field, "")
    return found if isinstance(found, str) else ""


aws.on_reset(_kept.clear)

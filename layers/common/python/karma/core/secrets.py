"""Secrets by ARN, as JSON objects, read through Powertools Parameters and kept for at most five minutes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from karma.core import aws

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.parameters import SecretsProvider

_MAX_AGE_S = 300
_provider: SecretsProvider | None = None


class SecretUnusable(RuntimeError):
    """The secret is empty or is not a JSON object of strings; its content is never in the message."""


def get(arn: str) -> dict[str, object]:
    """Return a secret's JSON object, at most five minutes old.

    Raises:
        SecretUnusable: stored value is not a JSON object.
    """
    global _provider
    if _provider is None:
        # Local: it imports boto3, which functions that read no secret at start do not need.
        from aws_lambda_powertools.utilities.parameters import SecretsProvider

        _provider = SecretsProvider(boto3_client=aws.client("secretsmanager"))
    raw = _provider.get(arn, max_age=_MAX_AGE_S)
    try:
        value = json.loads(raw if isinstance(raw, str | bytes) else "")
    except ValueError:
        raise SecretUnusable(f"secret {arn} is not JSON") from None
    if not isinstance(value, dict):
        raise SecretUnusable(f"secret {arn} is not a JSON object")
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


def _forget() -> None:
    global _provider
    _provider = None


aws.on_reset(_forget)

"""Secrets by ARN, as JSON objects, read from Secrets Manager and kept for at most five minutes.

Not through Powertools Parameters: importing it costs .14 of a boto3 client's start, at the first request of every
function that reads a secret (benchmarks/), to do no more than this cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from karma.core import aws
from karma.core.clock import monotonic
from karma.core.errors import StaleVersion, Upstream
from karma.core.faults import AWS_FAULTS, upstream_of

MAX_AGE_S = 300
_kept: dict[str, tuple[float, dict[str, object]]] = {}


class SecretsUnavailable(Upstream):
    """Secrets Manager did not answer; nothing can be signed or verified until it does."""

    status = 503
    code = "SECRETS_UNAVAILABLE"
    retry_after_s = 1


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except AWS_FAULTS as exc:
        public = upstream_of(exc, system="The store of keys", busy=SecretsUnavailable, unavailable=SecretsUnavailable)
        if public is None:
            raise
        raise public from exc


class SecretUnusable(RuntimeError):
    """The secret is empty or is not a JSON object of strings; its content is never in the message."""


def get(arn: str, *, max_age_s: float = MAX_AGE_S) -> dict[str, object]:
    """Return a secret's JSON object, read at most `max_age_s` seconds ago.

    Raises:
        SecretUnusable: the secret is not a JSON object.
        SecretsUnavailable: Secrets Manager did not answer.
    """
    kept = _kept.get(arn)
    if kept is not None and monotonic() - kept[0] < max_age_s:
        return kept[1]
    read_at = monotonic()
    value, _ = read(arn)
    _kept[arn] = (read_at, value)
    return value


def read(arn: str) -> tuple[dict[str, object], str]:
    """Return a secret's JSON object as it is now, and the id of its version.

    Raises:
        SecretUnusable: the secret is not a JSON object.
        SecretsUnavailable: Secrets Manager did not answer.
    """
    with _errors():
        answer = aws.client("secretsmanager").get_secret_value(SecretId=arn)
    try:
        value = json.loads(answer.get("SecretString", ""))
    except ValueError:
        raise SecretUnusable(f"secret {arn} is not JSON") from None
    if not isinstance(value, dict):
        raise SecretUnusable(f"secret {arn} is not a JSON object")
    return value, answer["VersionId"]


def write(arn: str, value: Mapping[str, object], *, seen: str) -> None:
    """Replace a secret whose version is `seen`.

    Secrets Manager has no conditional put, but moves a label only away from the version that the caller names: the
    value is put as a version that nobody reads, then AWSCURRENT is moved to it. A crash in between changes nothing.

    Raises:
        StaleVersion: the secret's version is not `seen` any more.
        SecretsUnavailable: Secrets Manager did not answer; the secret may have been replaced or not.
    """
    with _errors():
        manager = aws.client("secretsmanager")
        made = manager.put_secret_value(SecretId=arn, SecretString=json.dumps(value), VersionStages=["AWSPENDING"])
        try:
            manager.update_secret_version_stage(
                SecretId=arn, VersionStage="AWSCURRENT", MoveToVersionId=made["VersionId"], RemoveFromVersionId=seen
            )
        except manager.exceptions.InvalidParameterException:
            raise StaleVersion("The secret was changed meanwhile") from None
    _kept.pop(arn, None)


def strings(arn: str, field: str, *, max_age_s: float = MAX_AGE_S) -> tuple[str, ...]:
    """Return the non-empty strings of a list field, such as the values valid during a rotation; () without any."""
    if not arn:
        return ()
    found = get(arn, max_age_s=max_age_s).get(field, ())
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

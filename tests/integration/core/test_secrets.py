"""Secrets are read once in five minutes, and forgotten with the clients."""

import json

import pytest

from karma.core import aws, secrets
from karma.core.secrets import SecretUnusable
from tests.support.stack import Stack


def test_a_secret_is_kept_until_the_clients_are_dropped(stack: Stack) -> None:
    stack.use("billing_webhook")
    arn = stack.secrets["stripe_webhook"]
    before = secrets.strings(arn, "secrets")
    stack.aws("secretsmanager").put_secret_value(SecretId=arn, SecretString=json.dumps({"secrets": ["new", "", 7]}))
    assert secrets.strings(arn, "secrets") == before
    aws.reset()
    assert secrets.strings(arn, "secrets") == ("new",)
    assert secrets.strings(arn, "other") == ()
    assert secrets.strings("", "secrets") == ()
    assert secrets.string(arn, "secrets") == ""
    assert secrets.string("", "x") == ""


@pytest.mark.parametrize("value", ["not json", "[]", '"text"'])
def test_what_is_not_a_json_object_is_unusable(stack: Stack, value: str) -> None:
    stack.use("billing_webhook")
    arn = stack.aws("secretsmanager").create_secret(Name="odd", SecretString=value)["ARN"]
    with pytest.raises(SecretUnusable) as raised:
        secrets.get(arn)
    assert value not in str(raised.value).replace(arn, "")


def test_an_old_value_is_read_again(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.use("billing_webhook")
    arn = stack.secrets["stripe_webhook"]
    now = [1000.0]
    monkeypatch.setattr(secrets, "monotonic", lambda: now[0])
    before = secrets.strings(arn, "secrets")
    stack.aws("secretsmanager").put_secret_value(SecretId=arn, SecretString=json.dumps({"secrets": ["new"]}))
    now[0] += 299
    assert secrets.strings(arn, "secrets") == before
    now[0] += 1
    assert secrets.strings(arn, "secrets") == ("new",)

"""Output of `karma mail`: the mails that the engine was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local import cli
from local import places as local_places
from local.engine import Engine
from local.mailbox import delivered
from local.outputs import Demo, Model, Outputs, Stripe
from local.places import Places


@pytest.fixture
def running(
    engine: Engine, account: str, aws: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put two mails into the engine, and make a local environment of it."""
    aws("sesv2").create_email_identity(EmailIdentity="example.com")
    for number in (1, 2):
        aws("sesv2").send_email(
            FromEmailAddress="Karma <no-reply@example.com>",
            Destination={"ToAddresses": [f"{account}@example.com"]},
            Content={
                "Simple": {
                    "Subject": {"Data": f"Number {number} of {account}"},
                    "Body": {"Text": {"Data": f"https://app.example.com/verify-email#token=t{number}\n\nElse"}},
                }
            },
        )
    places = Places(base=tmp_path / "local")
    places.make()
    monkeypatch.setattr(local_places, "of_repository", lambda: places)
    demo = Demo(email="", password="", user_id="", device_id="", serial="", api_key="")
    Outputs(
        api_url="",
        stream_url="",
        websocket_url="",
        billing_webhook_url="",
        mqtt_host="",
        mqtt_port=0,
        mqtt_ca="",
        region="",
        endpoint_url=engine.endpoint_url,
        stage="local",
        tables={},
        bucket="",
        demo=demo,
        stripe=Stripe(base_url="", api_key="", webhook_secret=""),
        model=Model(base_url=""),
    ).write(places.outputs)


@pytest.mark.usefixtures("running")
def test_mails_come_oldest_first_with_their_tokens(engine: Engine, account: str) -> None:
    mine = [mail for mail in delivered(engine.endpoint_url) if mail.to == f"{account}@example.com"]
    assert [(mail.subject, mail.token) for mail in mine] == [(f"Number {n} of {account}", f"t{n}") for n in (1, 2)]


@pytest.mark.usefixtures("running")
def test_the_last_are_printed(account: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mail", "1"]) == 0
    shown = capsys.readouterr().out
    assert f"Number 2 of {account}" in shown
    assert f"Number 1 of {account}" not in shown


@pytest.mark.parametrize("count", ["0", "-1", "x", "1001", "\u00b2"])
def test_a_count_that_is_none_is_refused(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["mail", count])
    assert "a number from 1 to 1000" in capsys.readouterr().err or count == "-1"

"""Reads mails that the local engine's SES was given; the engine keeps them in memory until it stops."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

_PATH = "/_ministack/ses/messages"


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A mail as its recipient would see it."""

    at: datetime
    sender: str
    to: str
    subject: str
    text: str

    @property
    def token(self) -> str:
        """Return the one-time token of its link; "" when there is none."""
        _, _, behind = self.text.partition("#token=")
        return behind.split()[0] if behind else ""


def delivered(endpoint_url: str) -> list[Delivered]:
    """Read all mails, oldest first."""
    answer = httpx.get(endpoint_url + _PATH, timeout=10)
    answer.raise_for_status()
    found = [
        Delivered(
            at=datetime.fromtimestamp(each["Timestamp"], UTC),
            sender=each["Source"],
            to=", ".join(each["To"]),
            subject=each["Subject"],
            text=each["BodyText"],
        )
        for mails in answer.json()["messages"].values()
        for each in mails
    ]
    return sorted(found, key=lambda mail: mail.at)

"""Addresses and names of a local environment: the content of `.local/outputs.json`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The seeded user with their device and credentials."""

    email: str
    password: str
    user_id: str
    device_id: str
    serial: str
    api_key: str


@dataclass(frozen=True, kw_only=True)
class Stripe:
    """Address and key of the Stripe peer, and the secret by which it signs webhooks."""

    base_url: str
    api_key: str
    webhook_secret: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model that is called."""

    base_url: str
    """URL of the offline model; empty: the real API."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Addresses, names and the demo user."""

    api_url: str
    """URL without a path, as `stream_url`; `/docs` is directly below it."""
    stream_url: str
    websocket_url: str
    """Complete URL, as `billing_webhook_url`."""
    billing_webhook_url: str
    mqtt_host: str
    mqtt_port: int
    mqtt_ca: str
    """Absolute path of a PEM file."""
    region: str
    endpoint_url: str
    stage: str
    tables: Mapping[str, str]
    bucket: str
    demo: Demo
    stripe: Stripe
    model: Model

    def write(self, path: Path) -> None:
        """Write as JSON that only the owner may read: it holds the demo user's password."""
        write_private(path, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Outputs:
        """Read a file that `write` wrote.

        Raises:
            OSError, ValueError, KeyError, TypeError: the file is missing, or has another content.
        """
        raw: dict[str, Any] = json.loads(path.read_text())
        return cls(
            **{
                **raw,
                "demo": Demo(**raw["demo"]),
                "stripe": Stripe(**raw["stripe"]),
                "model": Model(**raw["model"]),
            }
        )


def write_private(path: Path, text: str) -> None:
    """Replace a file by one of mode 0600, at once: a reader sees the old text or the new one."""
    scratch = path.with_name(path.name + ".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    scratch.replace(path)

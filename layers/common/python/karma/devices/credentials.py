"""Certificate and address that a device connects with, as its owner is told them once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Certificate:
    """A device certificate; the private key exists here and in the answer to its owner, nowhere else."""

    id: str
    arn: str
    pem: str
    private_key: str | None

    def __repr__(self) -> str:
        """Show no key."""
        return f"Certificate({self.id!r})"


@dataclass(frozen=True)
class Endpoint:
    """Where devices connect, and which authority signed the broker's certificate."""

    host: str
    port: int
    ca_pem: str
    basic_ingest_rule: str = ""
    """The rule to which telemetry may go without the broker's charge."""

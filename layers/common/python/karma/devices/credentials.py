"""Credentials of a device: certificate and address, which its owner is shown once."""

from __future__ import annotations

from karma.core.records import Record


class Certificate(Record):
    """A device's certificate; its private key exists only here and in the answer to its owner."""

    id: str
    arn: str
    pem: str
    private_key: str | None

    def __repr__(self) -> str:
        """Return a text without the private key."""
        return f"Certificate({self.id!r})"


class Endpoint(Record):
    """Address of the broker, and the authority that signed its certificate."""

    host: str
    port: int
    ca_pem: str
    basic_ingest_rule: str = ""
    """Rule to which telemetry may be sent without the broker's charge; "": none."""
    provisioning_template: str = ""
    """Template by which a device asks for a new certificate itself; "": it does not."""

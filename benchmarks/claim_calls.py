"""Calls of the routes of provisioning claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.account import Step

if TYPE_CHECKING:
    from benchmarks.calls import Cost

CLAIMS = "/api/v1/provisioning-claims"


def costs(measure: Callable[[Step], tuple[Cost, Any]]) -> Iterator[Cost]:
    """Measure a claim of a hundred serial numbers from its making to its end."""
    body = {"name": "Batch", "model": "EOS-3A", "serial_numbers": [f"BATCH-{number}" for number in range(100)]}
    cost, made = measure(Step("POST /provisioning-claims of 100", "POST", CLAIMS, body=body))
    yield cost
    claim_id = made["provisioning_claim"]["id"]
    claim = f"{CLAIMS}/{claim_id}"
    for path in (CLAIMS, claim, f"{claim}/serial-numbers"):
        route = path.removeprefix("/api/v1").replace(claim_id, "{id}")
        yield measure(Step(f"GET {route}", "GET", path))[0]
    yield measure(Step("DELETE /provisioning-claims/{id}", "DELETE", claim))[0]

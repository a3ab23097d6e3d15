"""Events as AWS and Stripe send them."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

from benchmarks.world import WEBHOOK_SECRET, World, http_event
from karma.core.ids import new_id

SAMPLES = 100


def webhook_body(event_id: str, *, size: int = 4096) -> bytes:
    """Return a subscription event of Stripe's usual size."""
    obj = {"id": "sub_bench", "object": "subscription", "customer": "cus_bench", "status": "active", "metadata": {}}
    event: dict[str, Any] = {
        "id": event_id,
        "object": "event",
        "type": "customer.subscription.updated",
        "data": {"object": obj},
    }
    event["padding"] = [{"field": "value", "n": number} for number in range((size - 300) // 30)]
    return json.dumps(event).encode()


def webhook_event() -> dict[str, Any]:
    """Return a signed delivery of a new event."""
    body = webhook_body(f"evt_{new_id().replace('-', '')}")
    now = int(time.time())
    signature = hmac.digest(WEBHOOK_SECRET.encode(), b"%d.%b" % (now, body), "sha256").hex()
    headers = {"stripe-signature": f"t={now},v1={signature}"}
    return http_event("POST", "/webhooks/stripe", body=body, headers=headers)


def telemetry(*, boot: str, seq: int, samples: int = SAMPLES) -> bytes:
    """Return one telemetry message, a sample a second, each with three metrics."""
    now = int(time.time() * 1000) - samples * 1000
    rows = [
        {"ts": now + number * 1000, "m": {"temp_c": 21.5 + number / 100, "rh_pct": 40.25, "power_w": 12.0}}
        for number in range(samples)
    ]
    return json.dumps({"boot": boot, "seq": seq, "samples": rows}, separators=(",", ":")).encode()


def ingest_event(world: World, *, messages: int = 10, samples: int = SAMPLES) -> dict[str, Any]:
    """Return a batch as the SQS mapping passes it: messages of as many devices, or of the first few again."""
    boot = new_id()
    records = []
    for number in range(messages):
        device = world.devices[number % len(world.devices)]
        body = {
            "payload_b64": base64.b64encode(telemetry(boot=boot, seq=number, samples=samples)).decode(),
            "topic": f"dt/karma/{device.serial}/telemetry",
            "principal": device.certificate_id,
            "received_ms": int(time.time() * 1000),
        }
        records.append({"messageId": new_id(), "body": json.dumps(body), "attributes": {}, "messageAttributes": {}})
    return {"Records": records}

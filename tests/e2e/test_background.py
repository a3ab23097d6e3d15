"""Work that nobody waits for: a table's stream, messages in queues, schedules."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.billing.repository.inbox import InboxRepository
from karma.devices.service import Created
from local.deployment import Deployment
from local.waiting import until
from tests.support.devices import sqs_record

from .conftest import User

Eventually = Callable[..., Any]
SCHEDULE_S = 100
"""Sweeps run once a minute."""


class TestStreams:
    @pytest.mark.req("R-K-01")
    def test_a_row_in_the_table_is_counted_for_its_owner(
        self, user: User, device: Created, eventually: Eventually
    ) -> None:
        eventually(lambda: user.api.call("GET", "/devices")["total"] == 1, "the device counted")
        assert user.api.call("GET", "/devices")["devices"][0]["id"] == device.current.device.id


class TestQueues:
    def test_what_a_rule_sends_to_the_queue_is_read_back(
        self, user: User, device: Created, storage: Deployment, eventually: Eventually
    ) -> None:
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        samples = {"boot": "b1", "seq": 1, "samples": [{"ts": now_ms - 1000, "m": {"temp_c": 41.5}}]}
        topic = f"dt/karma/{device.current.device.serial_number}/telemetry"
        sent = sqs_record("m1", topic, json.dumps(samples).encode(), device.certificate.id, now_ms)
        storage.adapter.client("sqs").send_message(QueueUrl=storage.outputs["QueueUrlIngest"], MessageBody=sent["body"])

        def latest() -> dict[str, Any]:
            found: dict[str, Any] = user.api.call("GET", f"/devices/{device.current.device.id}/latest")["latest"]
            return found

        assert eventually(latest, "a reading")["temp_c"]["value"] == 41.5


@pytest.mark.late
def test_an_event_whose_message_was_lost_is_handled_by_a_sweep(storage: Deployment, forgotten_event: str) -> None:
    inbox = InboxRepository()

    def handled() -> datetime | None:
        event = inbox.get(forgotten_event)
        assert event is not None
        return event.handled_at

    until(handled, deadline_s=SCHEDULE_S, what="the forgotten event handled", pause_s=0.5)

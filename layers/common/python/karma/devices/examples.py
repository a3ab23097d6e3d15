"""Examples of the OpenAPI document for devices: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import BEGAN, DEVICE, LATER, USER

_PEM = "-----BEGIN CERTIFICATE-----\nMIIC...\n-----END CERTIFICATE-----\n"

FIELDS: Mapping[str, Any] = {
    "command_id": "01994b91-8e03-7f61-92ab-15c0d7e6f348",
    "issued_at": BEGAN,
    "last_heartbeat": LATER,
    "sent_at": LATER,
    "acknowledged_at": LATER,
    "model": "EOS-3A",
    "mac": "AA:BB:CC:00:11:22",
    "serial_number": "EOS-3A-0001",
    "ip": "192.168.1.20",
    "firmware_version": "1.4.2",
    "capabilities": {"relay": True},
    "hardware": {"revision": "B"},
    "network": {"ssid": "greenhouse"},
    "location": {"room": "north"},
    "latest": {"temp_c": {"value": 21.5, "ts": BEGAN}},
    "thing_name": "EOS-3A-0001",
    "certificate_id": "5c8f" * 16,
    "certificate_pem": _PEM,
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE...\n-----END RSA PRIVATE KEY-----\n",
    "ca_pem": _PEM,
    "mqtt_host": "mqtt.example.com",
    "mqtt_port": 8883,
    "basic_ingest_rule": "karma_prod_data",
    "metric": "temp_c",
    "resolution": "raw",
    "value": 21.5,
    "command": "set_relay",
    "params": {"on": True},
    "serial": False,
    "ttl_s": 60,
    "wait_s": 5,
    "requested_by": USER,
    "result": {"on": True},
    "late_result": None,
    "reason": "WRONG_VALUE",
    "field": 'samples[3].m["temp_c"]',
    "refused": [{"field": 'samples[3].m["temp_c"]', "reason": "WRONG_VALUE"}],
    "refused_count": 1,
    "taken": True,
    "letter_id": "1795250341254-0f1e2d3c4b5a6978",
    "topic": "dt/karma/EOS-3A-0001/telemetry",
    "payload_base64": "eyJib290Ijo=",
    "truncated": False,
    "CommandView.id": "01994b91-8e03-7f61-92ab-15c0d7e6f348",
    "CommandView.status": "succeeded",
    "TelemetryData.points": [{"ts": BEGAN, "value": 21.5}],
    "DeadLetterView.id": "1795250341254-0f1e2d3c4b5a6978",
    "cancel_command.force": True,
    "get_command.wait_s": 10,
    "DeviceView.id": DEVICE,
    **dict.fromkeys(("DeviceView.name", "ChangeDeviceRequest.name", "CreateDeviceRequest.name"), "Greenhouse"),
    **dict.fromkeys(("DeviceView.status", "LatestData.status", "list_devices.status"), "online"),
    "LateResultView.status": "queued",
}

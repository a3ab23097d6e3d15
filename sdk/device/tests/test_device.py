"""The device against a real broker with mutual TLS, IoT policies and rules (MiniStack).

One file of more than 450 lines: all of it is tried over one broker, whose start costs as much as the tests.
"""

import json
import logging
import math
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from karma_device.config import DeviceConfig, tls_context
from karma_device.device import Device
from karma_device.errors import CommandFailed, InvalidParams, SampleInvalid, StateFileBusy
from karma_device.messages import Command, Json
from karma_device.updates import FirmwareUpdater
from karma_device_testing.cloud import RULE, Broker, Cloud, Ingest, MakeDevice, Proxy, wait_until


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    proxy = Proxy(broker.mqtt_port)
    yield proxy
    proxy.close()


class TestTelemetry:
    def test_a_batch_arrives_as_recorded(self, cloud: Cloud, make_device: MakeDevice) -> None:
        device = make_device(batch_max_age_s=0.3)
        now = time.time_ns() // 1_000_000
        with device:
            device.record({"temp_c": 41.2, "door": True}, ts=now - 500)
            device.record({"temp_c": 41.3}, ts=now)
            wait_until(lambda: cloud.on("telemetry"))
        assert [m.body for m in cloud.on("telemetry")] == [
            {
                "boot": device.boot,
                "seq": 0,
                "samples": [
                    {"ts": now - 500, "m": {"temp_c": 41.2, "door": 1}},
                    {"ts": now, "m": {"temp_c": 41.3}},
                ],
            }
        ]

    @pytest.mark.fault("F-12j")
    def test_a_sensor_without_a_value_costs_its_metric_only(
        self, cloud: Cloud, make_device: MakeDevice, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = time.time_ns() // 1_000_000
        with make_device() as device:
            for place in range(3):
                device.record({"temp_c": 41.2, "bad": math.nan}, ts=now + place)
            device.record({"bad": math.nan}, ts=now + 3)
            device.record({}, ts=now + 4)
            device.flush()
            wait_until(lambda: cloud.on("telemetry"))
        [message] = cloud.on("telemetry")
        assert message.body["samples"] == [{"ts": now + place, "m": {"temp_c": 41.2}} for place in range(3)]
        assert device.stats.dropped_metrics == 4
        assert sum("telemetry.metric_dropped: metric bad is nan" in each for each in caplog.messages) == 1

    @pytest.mark.parametrize("offset_ms", [-30 * 24 * 3_600_000, 6 * 60_000])
    def test_a_sample_that_would_spoil_its_message_is_refused(self, make_device: MakeDevice, offset_ms: int) -> None:
        device = make_device()
        with pytest.raises(SampleInvalid, match="29 days"):
            device.record({"n": 1}, ts=time.time_ns() // 1_000_000 + offset_ms)

    def test_the_rule_names_the_certificate(
        self, ingest: Ingest, make_device: MakeDevice, credentials: dict[str, Any]
    ) -> None:
        with make_device() as device:
            device.record({"n": 1})
            wait_until(ingest.poll)
        envelope, _ = ingest.messages[0]
        assert envelope["principal"] == credentials["certificate_id"]
        assert envelope["topic"] == f"dt/karma/{credentials['thing_name']}/telemetry"

    def test_basic_ingest_reaches_the_rule_and_nobody_else(
        self, cloud: Cloud, ingest: Ingest, make_device: MakeDevice, credentials: dict[str, Any]
    ) -> None:
        with make_device(basic_ingest_rule=RULE) as device:
            device.record({"n": 7})
            wait_until(lambda: ingest.values("n"))
        assert ingest.values("n") == [7]
        assert ingest.messages[0][0]["topic"] == f"dt/karma/{credentials['thing_name']}/telemetry"
        assert cloud.on("telemetry") == []

    def test_stop_sends_what_is_still_open(self, ingest: Ingest, make_device: MakeDevice) -> None:
        device = make_device(batch_max_age_s=600.0)
        device.start()
        assert device.wait_ready(20)
        device.record({"n": 1})
        device.stop()
        wait_until(lambda: ingest.values("n") == [1])
        assert device.stats.buffered_batches == 0

    def test_heartbeat_carries_who_and_where(self, cloud: Cloud, make_device: MakeDevice) -> None:
        with make_device(heartbeat_interval_s=0.2, firmware_version="1.4.0") as device:
            wait_until(lambda: len(cloud.on("heartbeat")) >= 2)
        first, second = (m.body for m in cloud.on("heartbeat")[:2])
        assert (first["boot"], first["firmware_version"], first["ip"]) == (device.boot, "1.4.0", "127.0.0.1")
        assert first["seq"] < second["seq"]

    @pytest.mark.fault("F-49f")
    def test_heartbeats_tell_the_version_of_the_updater(
        self, cloud: Cloud, make_device: MakeDevice, tmp_path: Path
    ) -> None:
        updater = FirmwareUpdater(
            folder=tmp_path / "updates",
            model="EOS-3A",
            keys=[],
            running_version="2.0.0",
            install=lambda _path, _manifest: None,
            restart=lambda: None,
        )
        with make_device(updater=updater, heartbeat_interval_s=0.2, firmware_version="1.4.0"):
            wait_until(lambda: cloud.on("heartbeat"))
        assert cloud.on("heartbeat")[0].body["firmware_version"] == "2.0.0"

    @pytest.mark.fault("F-49g")
    def test_several_threads_may_close_it_at_once(self, make_device: MakeDevice) -> None:
        device = make_device()
        device.start()
        assert device.wait_ready(20)
        device.record({"n": 1})
        with ThreadPoolExecutor(8) as pool:
            left = list(pool.map(lambda n: device.close() if n % 2 else device.stop(), range(8)))
        assert set(left) == {left[0]}
        again = make_device()
        again.close()

    def test_a_message_that_the_broker_refuses_is_dropped_and_counted(self, make_device: MakeDevice) -> None:
        with make_device(basic_ingest_rule="a_rule_the_policy_does_not_name") as device:
            device.record({"n": 1})
            wait_until(lambda: device.stats.dropped_samples == 1)
            assert device.wait_ready(20)
        assert device.stats.buffered_batches == 0


class TestReady:
    def test_ready_follows_each_suback(self, cloud: Cloud, make_device: MakeDevice) -> None:
        with make_device() as device:
            assert device.wait_ready(20)
            # The subscription stands: a command sent only now is received.
            wait_until(lambda: cloud.on("ready"))
            command_id = cloud.command("none")
            cloud.final(command_id)
            device.reconnect()
            wait_until(lambda: len(cloud.on("ready")) == 2)
        assert [m.body["boot"] for m in cloud.on("ready")] == [device.boot] * 2

    def test_a_foreign_certificate_never_gets_ready(self, broker: Broker, make_device: MakeDevice) -> None:
        other = broker.create_thing()
        foreign = {"certificate_pem": other["certificate_pem"], "private_key": other["private_key"]}
        with make_device(credentials=foreign) as device:
            assert not device.wait_ready(1)
            assert device.stats.connections == 0

    def test_credentials_may_be_files(
        self, make_device: MakeDevice, credentials: dict[str, Any], tmp_path: Path
    ) -> None:
        files = {}
        for name in ("ca_pem", "certificate_pem", "private_key"):
            files[name] = str(tmp_path / name)
            (tmp_path / name).write_text(credentials[name])
        with make_device(credentials=files) as device:
            assert device.wait_ready(20)

    def test_without_the_right_to_subscribe_there_is_telemetry_but_no_ready(
        self, broker: Broker, ingest: Ingest, make_device: MakeDevice, credentials: dict[str, Any]
    ) -> None:
        publish_only = [{"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish"], "Resource": "*"}]
        broker.replace_policy(credentials, publish_only)
        with make_device() as device:
            device.record({"n": 1})
            wait_until(lambda: ingest.values("n") == [1])
            assert not device.stats.connected


class TestCommands:
    @pytest.mark.req("R-K-42")
    def test_acknowledged_then_succeeded_with_correlation(self, cloud: Cloud, make_device: MakeDevice) -> None:
        device = make_device()

        @device.command("move")
        def move(command: Command) -> dict[str, Json]:
            return {"x": command.params["x"]}

        with device:
            assert device.wait_ready(20)
            command_id = cloud.command("move", {"x": 10})
            cloud.final(command_id)
        acknowledged, succeeded = cloud.answers(command_id)
        assert acknowledged["status"] == "acknowledged"
        assert (succeeded["status"], succeeded["result"], succeeded["error"]) == ("succeeded", {"x": 10}, None)
        assert {m.correlation for m in cloud.on("response")} == {command_id.encode()}

    def test_delivered_twice_runs_once_and_is_answered_twice(self, cloud: Cloud, make_device: MakeDevice) -> None:
        device = make_device()
        runs: list[str] = []

        @device.command("move")
        def move(command: Command) -> None:
            runs.append(command.id)

        with device:
            assert device.wait_ready(20)
            body = cloud.request("move")
            cloud.send(body)
            first = cloud.final(body["id"])
            cloud.send(body)
            wait_until(lambda: cloud.statuses(body["id"]).count("succeeded") == 2)
        assert runs == [body["id"]]
        assert cloud.answers(body["id"])[-1] == first

    def test_delivered_twice_while_it_runs_runs_once(self, cloud: Cloud, make_device: MakeDevice) -> None:
        device = make_device()
        gate = threading.Event()
        runs: list[str] = []

        @device.command("move")
        def move(command: Command) -> None:
            runs.append(command.id)
            gate.wait(20)

        with device:
            assert device.wait_ready(20)
            body = cloud.request("move")
            cloud.send(body)
            wait_until(lambda: runs)
            cloud.send(body)
            wait_until(lambda: cloud.statuses(body["id"]) == ["acknowledged", "acknowledged"])
            gate.set()
            cloud.final(body["id"])
        assert runs == [body["id"]]

    def test_an_expired_command_is_rejected(self, cloud: Cloud, make_device: MakeDevice) -> None:
        device = make_device()
        runs: list[str] = []

        @device.command("move")
        def move(command: Command) -> None:
            runs.append(command.id)

        with device:
            assert device.wait_ready(20)
            expired = cloud.command("move", ttl_ms=-1)
            later = cloud.command("move")
            cloud.final(later)
        assert runs == [later]
        [answer] = cloud.answers(expired)
        assert (answer["status"], answer["error"]["code"]) == ("rejected", "EXPIRED")

    def test_broken_requests_are_ignored_with_a_log(
        self, cloud: Cloud, make_device: MakeDevice, caplog: pytest.LogCaptureFixture
    ) -> None:
        good = cloud.request("none")
        broken: list[bytes] = [
            b"",
            b"\xff\xfe\x00",
            b"{",
            b"[]",
            b"null",
            b"[" * 100_000,
            json.dumps({**good, "params": [1]}).encode(),
            json.dumps({**good, "id": 7}).encode(),
            json.dumps({**good, "id": "x" * 129}).encode(),
            json.dumps({**good, "expires_at": "soon"}).encode(),
            json.dumps({**good, "serial": "no"}).encode(),
            json.dumps({**good, "params": {"x": float("nan")}}).encode(),
            json.dumps({**good, "params": {"x": "\ud800"}}).encode(),
            b'{"id": "a", "n": 1' + b"0" * 5000 + b"}",
            b"x" * 131_000,
        ]
        with make_device() as device:
            assert device.wait_ready(20)
            for payload in broken:
                cloud.send(payload)
            later = cloud.command("none")
            cloud.final(later)
        assert [m.body["id"] for m in cloud.on("response")] == [later]
        assert sum(record.message.startswith("command.invalid") for record in caplog.records) == len(broken)

    def test_a_foreign_response_topic_is_refused(self, cloud: Cloud, make_device: MakeDevice) -> None:
        device = make_device()
        runs: list[str] = []

        @device.command("move")
        def move(command: Command) -> None:
            runs.append(command.id)

        with device:
            assert device.wait_ready(20)
            foreign = cloud.request("move")
            cloud.send(foreign, response_topic="cmd/karma/someone-else/response")
            later = cloud.command("move")
            cloud.final(later)
        assert runs == [later]

    @pytest.mark.parametrize(
        ("raised", "status", "code"),
        [
            (InvalidParams("x is missing"), "rejected", "INVALID_PARAMS"),
            (CommandFailed("AXIS_LIMIT", "x is out of reach"), "failed", "AXIS_LIMIT"),
            (ZeroDivisionError("boom"), "failed", "HANDLER_CRASHED"),
            (SystemExit(3), "failed", "HANDLER_CRASHED"),
        ],
    )
    def test_a_handler_that_raises_is_answered_and_the_next_command_works(
        self, cloud: Cloud, make_device: MakeDevice, raised: BaseException, status: str, code: str
    ) -> None:
        device = make_device(command_workers=1)

        @device.command("break")
        def break_(_command: Command) -> None:
            raise raised

        @device.command("ping")
        def ping(_command: Command) -> dict[str, Json]:
            return {"pong": True}

        with device:
            assert device.wait_ready(20)
            answer = cloud.final(cloud.command("break"))
            after = cloud.final(cloud.command("ping"))
        assert (answer["status"], answer["error"]["code"], answer["result"]) == (status, code, None)
        assert after["result"] == {"pong": True}

    def test_an_unknown_command_is_rejected(self, cloud: Cloud, make_device: MakeDevice) -> None:
        with make_device() as device:
            assert device.wait_ready(20)
            answer = cloud.final(cloud.command("fly"))
        assert (answer["status"], answer["error"]["code"]) == ("rejected", "UNKNOWN_COMMAND")

    def test_commands_sent_while_offline_run_once_after_the_next_ready(
        self, cloud: Cloud, make_device: MakeDevice
    ) -> None:
        device = make_device()
        runs: list[str] = []

        @device.command("move")
        def move(command: Command) -> None:
            runs.append(command.id)

        device.start()
        assert device.wait_ready(20)
        device.stop()
        body = cloud.request("move")
        cloud.send(body)  # the broker keeps it for the session
        device.start()
        wait_until(lambda: len(cloud.on("ready")) == 2)
        cloud.send(body)  # and the service sends what is pending once the device says ready
        # The second delivery is told what is known at its moment: that it runs, or how it ended.
        wait_until(lambda: len(cloud.statuses(body["id"])) >= 3)
        cloud.final(body["id"])
        assert runs == [body["id"]]


class TestReconnect:
    def test_a_take_over_loses_and_doubles_nothing(
        self, ingest: Ingest, make_device: MakeDevice, credentials: dict[str, Any]
    ) -> None:
        device = make_device(batch_max_samples=1)
        config = DeviceConfig.from_credentials(credentials)
        with device:
            assert device.wait_ready(20)
            for number in range(60):
                device.record({"n": number})
                if number in {20, 40}:
                    connections = device.stats.connections
                    _take_over(config)
                    wait_until(lambda seen=connections: device.stats.connections > seen)  # type: ignore[misc]
            wait_until(lambda: device.stats.buffered_batches == 0)
        wait_until(lambda: len(ingest.values("n")) == 60)
        assert ingest.values("n") == list(range(60))
        assert device.stats.connections >= 3
        assert device.stats.dropped_samples == 0

    def test_without_puback_the_same_message_is_sent_again_unchanged(
        self, ingest: Ingest, make_device: MakeDevice, proxy: Proxy
    ) -> None:
        device = make_device(batch_max_samples=1, credentials={"mqtt_port": proxy.port})
        with device:
            assert device.wait_ready(20)
            proxy.muted = True
            for number in range(5):
                device.record({"n": number})
            wait_until(lambda: len(ingest.poll()) == 5)
            assert device.stats.buffered_batches == 5
            proxy.muted = False
            proxy.cut()
            wait_until(lambda: device.stats.buffered_batches == 0)
            wait_until(lambda: len(ingest.poll()) == 10)
        assert ingest.values("n") == [0, 1, 2, 3, 4]  # asserts that repeats are the same bytes

    def test_a_silent_broker_is_left_after_the_ack_timeout(
        self, ingest: Ingest, make_device: MakeDevice, proxy: Proxy
    ) -> None:
        device = make_device(batch_max_samples=1, ack_timeout_s=0.3, credentials={"mqtt_port": proxy.port})
        with device:
            assert device.wait_ready(20)
            proxy.muted = True
            device.record({"n": 1})
            wait_until(lambda: not device.stats.connected)
            proxy.muted = False
            wait_until(lambda: device.stats.buffered_batches == 0)
        assert ingest.values("n") == [1]

    def test_answers_survive_a_cut_connection(self, cloud: Cloud, make_device: MakeDevice, proxy: Proxy) -> None:
        device = make_device(credentials={"mqtt_port": proxy.port})
        gate = threading.Event()

        @device.command("move")
        def move(_command: Command) -> dict[str, Json]:
            gate.wait(20)
            return {"done": True}

        with device:
            assert device.wait_ready(20)
            command_id = cloud.command("move")
            wait_until(lambda: cloud.statuses(command_id) == ["acknowledged"])
            proxy.cut()
            gate.set()
            answer = cloud.final(command_id)
        assert answer["result"] == {"done": True}

    def test_a_broker_restart_loses_and_doubles_nothing(self, tmp_path: Path) -> None:
        own = Broker(tmp_path / "broker")
        own.folder.mkdir()
        try:
            own.start()
            own.prepare()
            credentials = own.create_thing()
            ingest = Ingest(own, credentials["thing_name"])
            config = DeviceConfig.from_credentials(
                credentials,
                state_dir=tmp_path,
                batch_max_age_s=0.05,
                reconnect_min_s=0.05,
                reconnect_max_s=0.5,
                heartbeat_interval_s=0.0,
            )
            device = Device(config)
            with device:
                assert device.wait_ready(20)
                for number in range(10):
                    device.record({"n": number})
                own.stop()
                for number in range(10, 20):
                    device.record({"n": number})
                own.start()
                wait_until(lambda: device.stats.connections == 2)
                for number in range(20, 30):
                    device.record({"n": number})
                device.flush()
                wait_until(lambda: device.stats.buffered_batches == 0)
            wait_until(lambda: len(ingest.values("n")) >= 30)
            assert ingest.values("n") == list(range(30))
        finally:
            own.stop()

    def test_offline_the_oldest_is_dropped_and_counted(self, make_device: MakeDevice) -> None:
        device = make_device(batch_max_samples=1, buffer_max_bytes=1000, credentials={"mqtt_port": 1})
        device.start()
        for number in range(100):
            device.record({"n": number})
        stats = device.stats
        assert stats.buffered_bytes <= 1000
        assert stats.dropped_samples == 100 - stats.buffered_batches
        assert not stats.connected


class TestStop:
    def test_a_handler_may_stop_the_device_and_its_answer_follows_at_the_next_start(
        self, cloud: Cloud, make_device: MakeDevice
    ) -> None:
        device = make_device()
        stopped = threading.Event()

        @device.command("power_off")
        def power_off(_command: Command) -> dict[str, Json]:
            device.stop(timeout_s=5)
            stopped.set()
            return {"off": True}

        device.start()
        assert device.wait_ready(20)
        command_id = cloud.command("power_off")
        assert stopped.wait(20)
        device.start()
        assert cloud.final(command_id)["result"] == {"off": True}

    def test_a_hanging_handler_does_not_hold_up_the_end(self, cloud: Cloud, make_device: MakeDevice) -> None:
        device = make_device()
        gate = threading.Event()
        started = threading.Event()

        @device.command("hang")
        def hang(_command: Command) -> None:
            started.set()
            gate.wait(60)

        device.start()
        assert device.wait_ready(20)
        command_id = cloud.command("hang")
        assert started.wait(20)
        device.stop(timeout_s=0.2)
        assert not device.stats.connected
        gate.set()
        device.start()
        assert cloud.final(command_id)["status"] == "succeeded"

    def test_a_broker_that_never_answers_does_not_hold_up_the_end(self, make_device: MakeDevice) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            device = make_device(credentials={"mqtt_port": silent.getsockname()[1]}, keepalive_s=1)
            device.start()
            accepted, _ = silent.accept()
            with accepted:
                device.stop(timeout_s=0.1)
        assert not device.stats.connected

    @pytest.mark.fault("F-14a")
    def test_what_is_left_unsent_is_told(self, make_device: MakeDevice, caplog: pytest.LogCaptureFixture) -> None:
        device = make_device(credentials={"mqtt_port": 1}, batch_max_samples=2)
        assert not device.stop()
        device.start()
        for number in range(5):
            device.record({"n": number})
        caplog.set_level(logging.INFO)

        left = device.stop(timeout_s=0.1)

        assert (left.samples, left.answers, left.commands) == (5, 0, 0)
        assert str(left).startswith("unsent: 5 samples, in memory until the process ends; 0 answers")
        assert f"device.stopped: {left}" in caplog.messages
        device.record({"n": 6})
        assert device.stop().samples == 6
        assert device.close().samples == 6
        assert device.close().samples == 6
        assert "device.closed: 6 samples that could not be sent are lost" in caplog.messages

    @pytest.mark.fault("F-14a")
    def test_answers_and_commands_that_are_left_are_told_and_kept(
        self, cloud: Cloud, make_device: MakeDevice, proxy: Proxy
    ) -> None:
        device = make_device(credentials={"mqtt_port": proxy.port}, command_workers=2)
        started, gate = threading.Event(), threading.Event()

        @device.command("quick")
        def quick(_command: Command) -> None:
            proxy.muted = True  # the answer's PUBACK never comes
            started.set()

        @device.command("hang")
        def hang(_command: Command) -> None:
            gate.wait(60)

        device.start()
        assert device.wait_ready(20)
        hanging, answered = cloud.command("hang"), cloud.command("quick")
        assert started.wait(20)
        cloud.final(answered)
        left = device.stop(timeout_s=0.3)
        gate.set()

        assert (left.samples, left.answers, left.commands) == (0, 1, 1)
        assert left.state_path.exists()
        proxy.muted = False
        device.start()
        cloud.final(hanging)
        wait_until(lambda: cloud.statuses(answered).count("succeeded") == 2)
        wait_until(lambda: not device.stop())

    def test_it_runs_once_at_a_time(self, make_device: MakeDevice) -> None:
        device = make_device(credentials={"mqtt_port": 1})
        device.start()
        with pytest.raises(RuntimeError, match="runs already"):
            device.start()
        device.stop()
        device.stop()
        device.start()


class TestOneProcess:
    def test_the_state_file_belongs_to_one_process(self, make_device: MakeDevice) -> None:
        make_device()
        with pytest.raises(StateFileBusy):
            make_device()


def _take_over(config: DeviceConfig) -> None:
    """Connect under the device's own name, so that the broker cuts the device off, and leave."""
    connected = threading.Event()
    rival = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=config.thing_name, protocol=mqtt.MQTTv5, reconnect_on_failure=False
    )
    rival.tls_set_context(tls_context(config))
    rival.on_connect = lambda *_: connected.set()
    rival.connect(config.host, config.port)
    rival.loop_start()
    assert connected.wait(10)
    rival.disconnect()
    rival.loop_stop()


@pytest.mark.fault("F-11h")
def test_with_other_credentials_the_broker_s_session_begins_anew(cloud: Cloud, make_device: MakeDevice) -> None:
    """It keeps a command for the device that had the serial number; the same device would get it."""
    for now, gets_it in (("first", True), ("second", False)):
        ran: list[str] = []

        def run(command: Command, ran: list[str] = ran) -> None:
            ran.append(command.id)

        with make_device(device_id="first") as device:
            assert device.wait_ready(20)
        cloud.send({**cloud.request("go", command_id=now), "device_id": now})
        device = make_device(device_id=now)
        device.command("go")(run)
        with device:
            assert device.wait_ready(20)
            # Behind it in the order of the broker.
            cloud.send({**cloud.request("go", command_id=f"{now}-later"), "device_id": now})
            cloud.final(f"{now}-later")
        assert ran == [*([now] if gets_it else []), f"{now}-later"]

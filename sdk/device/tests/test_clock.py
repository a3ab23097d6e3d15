"""Samples that are recorded while the device's clock is wrong get their true times once it is set."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma_device.batching import Batch, TelemetryBuffer
from karma_device.clock import MAX_AGE_MS, MAX_AHEAD_MS, steady_clock, steady_ms
from karma_device.config import DeviceConfig
from karma_device.device import Device

NOW = 1_760_000_000_000
CREDENTIALS = {
    "thing_name": "a",
    "mqtt_host": "127.0.0.1",
    "mqtt_port": 1,
    "ca_pem": "",
    "certificate_pem": "",
    "private_key": "",
}
WRONG_BY = (st.sampled_from([NOW // 60_000, 0, 1, -1]) | st.integers(-100_000, 100_000)).map(lambda m: m * 60_000)


class Clocks:
    """A clock that is set, beside the true time."""

    def __init__(self) -> None:
        self.true = NOW
        self.wrong_by = 0

    def device(self, folder: Path) -> Device:
        config = DeviceConfig.from_credentials(CREDENTIALS, state_dir=folder, batch_max_samples=4)
        return Device(config, clock_ms=lambda: self.true - self.wrong_by, steady=lambda: self.true - NOW + 7_000)


def written(device: Device) -> list[int]:
    device.flush()
    found = [json.loads(batch.payload) for batch in iter(device._buffer.take, None)]
    return [sample["ts"] for body in found for sample in body["samples"]]


@pytest.mark.fault("F-12n")
class TestSteadyClock:
    @pytest.mark.parametrize(
        ("platform", "clocks", "chosen"),
        [
            ("linux", {"CLOCK_BOOTTIME": 7, "CLOCK_MONOTONIC_RAW": 4, "CLOCK_MONOTONIC": 1}, 7),
            ("android", {"CLOCK_BOOTTIME": 7, "CLOCK_MONOTONIC_RAW": 4, "CLOCK_MONOTONIC": 1}, 7),
            ("darwin", {"CLOCK_MONOTONIC_RAW": 4, "CLOCK_MONOTONIC": 6, "CLOCK_UPTIME_RAW": 8}, 4),
            ("freebsd14", {"CLOCK_MONOTONIC": 4, "CLOCK_UPTIME": 5}, None),
            ("win32", {}, None),
        ],
    )
    def test_goes_on_in_sleep(self, platform: str, clocks: dict[str, int], chosen: int | None) -> None:
        assert steady_clock(platform, clocks) == chosen

    def test_counts_milliseconds_of_this_machine(self) -> None:
        before = time.monotonic_ns()
        first, second = steady_ms(), steady_ms()
        assert 0 <= second - first <= (time.monotonic_ns() - before) // 1_000_000 + 1


@pytest.mark.fault("F-12l")
class TestSetClock:
    @given(steps=st.lists(st.tuples(st.integers(0, 600_000), st.integers(0, 6), WRONG_BY), min_size=1, max_size=6))
    @settings(max_examples=25)
    def test_what_was_not_sent_gets_its_true_time(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int]]
    ) -> None:
        """Samples under any wrong clocks, sealed or open, whatever the number of steps."""
        clocks, true = Clocks(), []
        clocks.wrong_by = steps[0][2]
        device = clocks.device(tmp_path_factory.mktemp("state"))
        for passed, samples, wrong_by in steps:
            clocks.true += passed
            clocks.wrong_by = wrong_by
            for _ in range(samples):
                clocks.true += 1
                device.record({"n": 1})
                true.append(clocks.true)
        clocks.wrong_by = 0
        device.record({"n": 1})
        assert written(device) == [*true, clocks.true]
        device.close()

    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from([0, 0, NOW, 40 * 86_400_000, -86_400_000, 61_000]), st.integers(0, 5), st.booleans()
            ),
            max_size=8,
        )
    )
    @settings(max_examples=40)
    def test_a_clock_that_is_set_wrong_and_back_costs_nothing_that_was_sent_before(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]]
    ) -> None:
        """Nothing is sent while the clock is wrong; what was is neither dropped nor counted, confirmed or not."""
        clocks, true, sent = Clocks(), [], []
        device = clocks.device(tmp_path_factory.mktemp("state"))
        for wrong_by, samples, confirms in steps:
            clocks.wrong_by = wrong_by
            for _ in range(samples):
                clocks.true += 1
                device.record({"n": 1})
                true.append(clocks.true)
            if wrong_by == 0:
                device.flush()
                device._time()  # as before each message that is sent
                while (batch := device._buffer.take()) is not None:
                    sent.append(batch)
                    if confirms:
                        device._buffer.confirm(batch.seq)
        clocks.wrong_by = 0
        device.record({"n": 1})
        true.append(clocks.true)
        assert device.stats.dropped_samples == 0
        kept = [json.loads(batch.payload) for batch in sent]
        assert [sample["ts"] for body in kept for sample in body["samples"]] + written(device) == true
        device._buffer.release_all()
        again = {batch.seq: batch for batch in iter(device._buffer.take, None)}
        assert all(again.get(batch.seq, batch) == batch for batch in sent), "sent again with the same bytes"
        device.close()

    @pytest.mark.parametrize(
        ("wrong_by", "lost"), [(NOW, 5), (MAX_AGE_MS + 1, 5), (MAX_AGE_MS - 10, 0), (-MAX_AHEAD_MS - 1, 5), (0, 0)]
    )
    def test_what_was_sent_with_impossible_times_is_counted_and_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong_by: int, lost: int
    ) -> None:
        clocks = Clocks()
        clocks.wrong_by = wrong_by
        device = clocks.device(tmp_path)
        for _ in range(5):
            device.record({"n": 1})
        device.flush()
        confirmed, waiting = device._buffer.take(), device._buffer.take()
        assert confirmed is not None
        assert waiting is not None
        device._buffer.confirm(confirmed.seq)
        device._buffer.release_all()
        clocks.wrong_by = 0
        device.record({"n": 2})
        assert device.stats.dropped_samples == (4 if lost else 0)
        assert ("4 were sent with impossible times" in caplog.text) == (lost > 0)
        assert device._buffer.take() == waiting, "what was sent is sent again with the same bytes"
        device._buffer.confirm(waiting.seq)
        assert device.stats.dropped_samples == lost
        device.close()

    def test_a_possible_time_that_the_program_gave_stays(self, tmp_path: Path) -> None:
        clocks = Clocks()
        clocks.wrong_by = 3_600_000
        device = clocks.device(tmp_path)
        device.record({"n": 1}, ts=NOW - 3_600_000)
        clocks.wrong_by = 0
        assert written(device) == [NOW - 3_600_000]
        device.close()

    def test_a_message_that_becomes_too_long_is_dropped_and_counted(self) -> None:
        buffer = TelemetryBuffer(max_bytes=10**6)
        rest = b',"m":{"n":1}}'
        samples = [b'{"ts":1' + rest] * 5_900
        buffer.push(Batch(0, b'{"boot":"b","seq":0,"samples":[' + b",".join(samples) + b"]}", 5_900, own_times=True))
        assert buffer.set_by(NOW, now_ms=NOW) == (5_900, 5_900)
        assert (len(buffer), buffer.size_bytes) == (0, 0)

    @given(by=st.integers(-2 * NOW, 2 * NOW))
    def test_a_message_is_the_same_again_when_a_clock_is_set_back(self, by: int) -> None:
        """Also where the wrong clock's times are before 1970."""
        batch = Batch(0, b'{"boot":"b","seq":0,"samples":[{"ts":%d,"m":{"n":1}}]}' % NOW, 1, own_times=True)
        assert batch.set_by(by, now_ms=NOW).set_by(-by, now_ms=NOW) == batch

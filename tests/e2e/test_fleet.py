"""A fleet on a bad network, while the processes that read its messages are killed. FLEET=200 has as many devices."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import pytest

from karma.core.clock import epoch_ms, parse_iso
from local.conversation import sell
from local.deployment import Deployment
from local.waiting import until
from tests.support.fleet import CUTS, FleetDevice, Message, Sample, as_sent, messages_of, relays
from tests.support.seeds import dice

from .conftest import User

DEVICES = int(os.environ.get("FLEET") or 4)
WATCHED, PAST = 30, 70
"""Samples of each device, of a metric that a rule watches and of an hour that is over. A killed process makes samples
late by more than the network does; within 32 of a metric no order changes how many alarms there are (docs/adr/0062)."""
WITHIN_S = 600
"""Seconds for all to be stored: messages that a killed process had taken come again when its time is over."""
NEVER = 1 << 53
_HOUR = 3_600_000
_HANDSHAKE = 2_500
"""Bytes that a device sends until it is connected, about."""


@dataclass
class Speaker:
    """A device with what it has to say."""

    id: str
    watched: list[Sample]
    past: list[Sample]
    sent: list[Message]
    client: FleetDevice

    @property
    def alarms(self) -> list[tuple[int, int]]:
        """Return the first hot samples of its alarms, and the first cool ones behind them."""
        found: list[tuple[int, int]] = []
        is_hot = False
        for ts, _, value in self.watched:
            if not is_hot and value > 40:
                found.append((ts, NEVER))
            elif is_hot and value < 40:
                found[-1] = (found[-1][0], ts)
            is_hot = value > 40
        return found


def _speaker(device: dict[str, Any], folder: Path, *, begin: int, hour: int, draw: random.Random) -> Speaker:
    hot = draw.randrange(WATCHED + 5)
    cool = hot + draw.randrange(1, WATCHED)
    degrees = [draw.uniform(45, 60) if hot <= at < cool else draw.uniform(10, 35) for at in range(WATCHED)]
    watched = [(begin + at * 4_000, "temp_c", round(value, 2)) for at, value in enumerate(degrees)]
    past = [(hour + at * 50_000 + draw.randrange(50_000), "flow", round(draw.uniform(0, 9), 3)) for at in range(PAST)]
    turns = draw.sample(["temp_c"] * WATCHED + ["flow"] * PAST, k=WATCHED + PAST)
    series = {"temp_c": iter(watched), "flow": iter(past)}
    mixed = [next(series[metric]) for metric in turns]
    sent = as_sent(messages_of(mixed, size=5), draw)
    return Speaker(device["device"]["id"], watched, past, sent, FleetDevice(device["credentials"], folder))


def _page_through(user: User, path: str, member: str, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        given = {**query, "cursor": cursor} if cursor else query
        page = user.api.call("GET", path, None, **given)
        found += page[member]
        cursor = page["next_cursor"]
    return found


def _points(user: User, device: Speaker, metric: str, resolution: str, begin: int, end: int) -> list[dict[str, Any]]:
    query: dict[str, str | int] = {"metric": metric, "resolution": resolution, "from": begin, "to": end}
    found: list[dict[str, Any]] = user.api.call("GET", f"/devices/{device.id}/telemetry", None, **query)["points"]
    return found


def _ms(moment: str | None) -> int:
    return NEVER if moment is None else epoch_ms(parse_iso(moment))


def _buckets(samples: Sequence[Sample], size: int) -> dict[int, dict[str, Any]]:
    """Return what buckets of so many ms hold, computed from the samples themselves."""
    grouped: dict[int, list[Sample]] = {}
    for sample in sorted(samples):
        grouped.setdefault(sample[0] // size * size, []).append(sample)
    return {
        begin: {
            "count": len(each),
            "min": min(value for _, _, value in each),
            "max": max(value for _, _, value in each),
            "avg": pytest.approx(fmean(value for _, _, value in each)),
            "last": each[-1][2],
        }
        for begin, each in grouped.items()
    }


def _shown(points: Sequence[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Return buckets as an answer shows them; a partial one is left out."""
    names = ("count", "min", "max", "avg", "last")
    return {_ms(each["ts"]): {name: each[name] for name in names} for each in points if not each["partial"]}


@pytest.mark.late
# The stock client leaves its socket to the collector where a handshake is cut.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.req("R-K-11", "R-K-13")
@pytest.mark.needs("local-stage")  # whose command sells the plan
def test_nothing_that_a_fleet_says_is_lost_doubled_or_told_wrong(
    user: User, deployment: Deployment, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    draw = dice("a fleet", DEVICES)
    sell(deployment.stripe, user.id, user.email, plan="karma_team_month")
    eventually(lambda: user.api.call("GET", "/subscriptions/current")["subscription"]["plan"] == "team", "the plan")
    made = [
        user.api.call(
            "POST",
            "/devices",
            {
                "name": f"Pump {number}",
                "model": "EOS-3A",
                "mac": ":".join(["02", *(f"{byte:02x}" for byte in secrets.token_bytes(5))]),
                "serial_number": f"FLEET-{secrets.token_hex(5)}",
                "tags": ["fleet"],
            },
        )
        for number in range(DEVICES)
    ]
    rule = {"name": "Too hot", "tag": "fleet", "trigger": "above", "metric": "temp_c", "high": 40, "actions": []}
    user.api.call("POST", "/alarm-rules", rule)
    now = time.time_ns() // 1_000_000
    hour = now // _HOUR * _HOUR - 3 * _HOUR
    fleet = [_speaker(each, tmp_path, begin=now + 1_000, hour=hour, draw=draw) for each in made]
    sent = [[len(each.body()) for each in speaker.sent] for speaker in fleet]
    lasts = [[draw.randrange(500, _HANDSHAKE + sum(each) // 2) for _ in range(CUTS)] for each in sent]
    broker = made[0]["credentials"]
    with ExitStack() as stack:
        ports = stack.enter_context(relays(broker["mqtt_host"], broker["mqtt_port"], lasts))
        for speaker, port in zip(fleet, ports, strict=True):
            stack.callback(speaker.client.stop)
            speaker.client.start(port)
        _say_all(fleet, deployment)
    assert sum(each.client.connections for each in fleet) > DEVICES, "no connection was cut"

    def is_whole() -> bool:
        return all(_is_stored(user, each, now, hour) for each in fleet)

    until(is_whole, deadline_s=WITHIN_S, what="all that was said, once, and rolled up", pause_s=2)
    _compare_alarms(user, fleet)
    assert all(user.api.call("GET", f"/devices/{each.id}/dead-letters")["dead_letters"] == [] for each in fleet)


def _compare_alarms(user: User, fleet: Sequence[Speaker]) -> None:
    shown = [each for state in ("open", "past") for each in _page_through(user, "/alarms", "alarms", state=state)]
    for speaker in fleet:
        alarms = [each for each in shown if each["device_id"] == speaker.id]
        told = sorted((_ms(each["raised_at"]), _ms(each["cleared_at"])) for each in alarms)
        assert len(told) == len(speaker.alarms), (told, speaker.watched)
        # What was told is kept to: a sample that comes late and lies before it moves no alarm.
        for (raised, cleared), (hot, cool) in zip(told, speaker.alarms, strict=True):
            assert hot <= raised < cool
            assert (cleared == NEVER) == (cool == NEVER)
            assert cleared >= cool


def _say_all(fleet: Sequence[Speaker], deployment: Deployment) -> None:
    """Let all devices say all that they have to, and kill what reads it in the middle."""
    for speaker in fleet:
        for message in speaker.sent:
            speaker.client.publish(message)

    def unconfirmed() -> int:
        return sum(each.client.unconfirmed for each in fleet)

    half = unconfirmed() // 2
    until(lambda: unconfirmed() <= half or None, deadline_s=WITHIN_S, what="half of the messages", pause_s=0.02)
    assert _kill_readers(deployment), "no process was reading"
    until(lambda: unconfirmed() == 0 or None, deadline_s=WITHIN_S, what="all messages acknowledged", pause_s=0.2)


def _kill_readers(deployment: Deployment) -> int:
    engine = psutil.Process(deployment.processes.running()["engine"])
    readers = [each for each in engine.children(recursive=True) if "DeviceIngest" in " ".join(each.cmdline())]
    for each in readers:
        each.kill()
    return len(readers)


def _is_stored(user: User, device: Speaker, now: int, hour: int) -> bool:
    raw = [
        sorted((_ms(each["ts"]), each["value"]) for each in _points(user, device, metric, "raw", begin, end))
        for metric, begin, end in (("temp_c", now, now + 600_000), ("flow", hour, hour + 2 * _HOUR))
    ]
    if raw != [sorted((ts, value) for ts, _, value in each) for each in (device.watched, device.past)]:
        return False
    span = (hour, hour + 2 * _HOUR)
    return all(
        _shown(_points(user, device, "flow", resolution, *span)) == _buckets(device.past, size)
        for resolution, size in (("minute", 60_000), ("hour", _HOUR))
    )

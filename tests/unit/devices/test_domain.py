"""Devices and commands: status, latest facts, transitions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.devices.domain import (
    ANSWERS,
    TRANSITIONS,
    CommandStatus,
    DeviceModel,
    DeviceStatus,
    Latest,
    PresenceEvent,
    PresenceState,
    Reading,
    is_final,
    sources_of,
    status_of,
)

S = CommandStatus
CONNECTED = PresenceState((PresenceEvent(1000, 0, True, "s"),))
DISCONNECTED = PresenceState((PresenceEvent(1000, 0, False, "s"),))


@pytest.mark.req("R-K-12")
def test_the_closed_sets_are_the_specified_ones() -> None:
    assert set(DeviceStatus) == {"online", "offline", "error", "updating"}
    assert set(DeviceModel) == {"EOS-3A", "EOS-3B", "EOS-3C"}


@pytest.mark.req("R-K-11", "R-K-12")
@pytest.mark.parametrize(
    ("presence", "latest", "status"),
    [
        (PresenceState(), Latest(), "offline"),
        (CONNECTED, Latest(), "online"),
        (DISCONNECTED, Latest(), "offline"),
        (DISCONNECTED, Latest(last_seen_ms=900), "offline"),
        (DISCONNECTED, Latest(last_seen_ms=1000 + 2000), "offline"),
        (DISCONNECTED, Latest(last_seen_ms=1000 + 2001), "online"),  # presence is behind
        (PresenceState(), Latest(ready_ms=5000), "online"),
        (CONNECTED, Latest(condition="error", condition_ms=1), "error"),
        (CONNECTED, Latest(condition="updating", condition_ms=1), "updating"),
        (DISCONNECTED, Latest(condition="error", condition_ms=1), "offline"),
    ],
)
def test_the_status_of_a_device_follows_from_presence_and_facts(
    presence: PresenceState, latest: Latest, status: str
) -> None:
    assert status_of(presence, latest) == status


def test_every_pair_of_command_states_is_decided() -> None:
    allowed = {(source, target) for source, targets in TRANSITIONS.items() for target in targets}
    expected = {
        *((S.QUEUED, target) for target in (S.SENT, S.EXPIRED, S.CANCELLED, *ANSWERS)),
        *((S.SENT, target) for target in (S.EXPIRED, S.CANCELLED, *ANSWERS)),
        *((S.ACKNOWLEDGED, target) for target in (S.SUCCEEDED, S.FAILED, S.REJECTED, S.TIMED_OUT, S.CANCELLED)),
    }
    assert allowed == expected
    for source, target in itertools.product(S, S):
        assert (source in sources_of(target)) == ((source, target) in expected)
    assert {status for status in S if is_final(status)} == set(S) - {S.QUEUED, S.SENT, S.ACKNOWLEDGED}


@given(st.lists(st.sampled_from(sorted(ANSWERS)), max_size=6))
def test_no_answers_ever_leave_a_final_state(answers: list[CommandStatus]) -> None:
    status, ends = S.SENT, 0
    for answer in answers:
        if answer in TRANSITIONS[status]:
            status, ends = answer, ends + is_final(answer)
    assert ends <= 1


readings = st.builds(Reading, value=st.floats(-5, 5), ts=st.integers(0, 5))
latests = st.builds(
    Latest,
    readings=st.dictionaries(st.sampled_from(["a", "b"]), readings),
    last_seen_ms=st.integers(0, 5),
    ready_ms=st.integers(0, 5),
    ip_ms=st.integers(0, 3),
    ip=st.sampled_from([None, "10.0.0.1", "10.0.0.2"]),
    firmware_ms=st.integers(0, 3),
    firmware_version=st.sampled_from([None, "1", "2"]),
    condition_ms=st.integers(0, 3),
    condition=st.sampled_from(["", "error", "updating"]),
)


@given(latests, latests, latests)
def test_latest_facts_merge_in_any_order(a: Latest, b: Latest, c: Latest) -> None:
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(a) == a


told = st.tuples(st.sampled_from([None, "10.0.0.1", "10.0.0.2"]), st.sampled_from([None, "1", "2"]))


@pytest.mark.fault("F-12g")
@given(st.lists(told, max_size=6).flatmap(lambda beats: st.permutations(list(enumerate(beats, start=1)))))
def test_a_heartbeat_that_leaves_something_out_takes_nothing_back(beats: list[tuple[int, tuple[Any, Any]]]) -> None:
    latest = Latest()
    for at_ms, (ip, firmware_version) in beats:
        latest = latest.merge(Latest.told(at_ms, ip=ip, firmware_version=firmware_version))
    in_order = [said for _, said in sorted(beats)]
    known = [[said[place] for said in in_order if said[place] is not None] for place in (0, 1)]
    assert [latest.ip, latest.firmware_version] == [said[-1] if said else None for said in known]


def test_latest_keeps_a_bounded_number_of_metrics() -> None:
    many = Latest(readings={f"m{n}": Reading(1.0, n) for n in range(500)})
    kept = Latest().merge(many).readings
    assert len(kept) == Latest.MAX_METRICS
    assert "m499" in kept
    assert "m0" not in kept

"""Changes of settings beside each other and beside the device, by requests that die, and over a change of hands."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from karma.audit.domain import NOWHERE
from karma.core.errors import NotFound, StaleVersion, ValidationFailed
from karma.core.ids import UserId
from karma.devices.repository.settings_changes import SettingsChangeRepository
from karma.devices.settings import Asker, SettingsService
from karma.devices.shadow import ChangeState, Shadow
from karma.integrations.iot import DeviceServiceUnavailable
from tests.support.crash import CrashTest
from tests.support.devices import World
from tests.support.hands import Hands
from tests.support.stack import Stack

ENTRY = f"{Path(__file__).with_name('settings_entry.py')}:change"


class Wishes:
    """Settings that Ada wants of her device, with the shadows that hold them."""

    def __init__(self, hands: Hands) -> None:
        self.hands = hands
        self.shadows = hands.transfers.shadows
        self.shadows.now_s = lambda: hands.world.clock.ms // 1_000
        self.service = SettingsService(
            hands.world.repository, SettingsChangeRepository(), self.shadows, hands.world.clock
        )

    def want(self, desired: dict[str, Any], *, version: int | None = None) -> Shadow:
        by = Asker(user_id=self.hands.ada, source=NOWHERE)
        return self.service.change(self.hands.ada, self.hands.device_id, desired, by=by, version=version)

    def report(self, **values: Any) -> None:
        stored = self.shadows.read(self.hands.serial)
        self.shadows.update(self.hands.serial, desired={}, reported=values, version=stored.version, token="")

    def read(self, user: UserId | None = None, device_id: str = "") -> Shadow:
        return self.service.get(user or self.hands.ada, device_id or self.hands.device_id)

    @property
    def states(self) -> list[tuple[dict[str, Any], ChangeState]]:
        found, _ = self.service.changes(self.hands.ada, self.hands.device_id, limit=50)
        return [(dict(each.patch), each.state) for each in found]

    def audited(self) -> int:
        return [each["event"]["S"] for each in self.hands.world.items("identity") if "event" in each].count(
            "device.settings_changed"
        )


@pytest.fixture
def wishes(world: World) -> Wishes:
    return Wishes(Hands(world))


@pytest.mark.fault("F-47d")
@pytest.mark.parametrize("version", [0, 1], ids=["none yet", "some"])
def test_of_two_changes_for_one_version_at_once_one_is_made(wishes: Wishes, version: int) -> None:
    if version:
        wishes.want({"z": 0})
    outcomes: list[object] = []

    def overtake() -> None:
        outcomes.append(wishes.want({"a": 1}, version=version).desired["a"])

    wishes.shadows.between.append(overtake)
    with pytest.raises(StaleVersion):
        wishes.want({"a": 2}, version=version)
    assert (outcomes, wishes.read().desired["a"]) == ([1], 1)
    assert wishes.states[:2] == [({"a": 1}, ChangeState.APPLIED), ({"a": 2}, ChangeState.REFUSED)]


@pytest.mark.fault("F-47d")
def test_two_first_changes_that_each_make_the_settings_are_one(wishes: Wishes) -> None:
    """The other comes between the making of the settings and the update of the one that made them."""
    wishes.shadows.between += [lambda: None, lambda: wishes.want({"a": 1}, version=None)]
    with pytest.raises(StaleVersion):
        wishes.want({"a": 2}, version=0)
    assert wishes.read().desired == {"a": 1}


def test_changes_without_a_version_are_all_made_whatever_comes_between(wishes: Wishes) -> None:
    wishes.want({"z": 0})
    wishes.shadows.between += [lambda: wishes.want({"a": 1}), lambda: wishes.report(z=0)]
    assert wishes.want({"b": {"c": 2}}).desired == {"z": 0, "a": 1, "b": {"c": 2}}
    assert [state for _, state in wishes.states] == [ChangeState.APPLIED] * 3


def test_a_change_that_others_overtake_all_the_time_is_refused(wishes: Wishes) -> None:
    wishes.want({"z": 0})
    reports: list[Callable[[], object]] = [lambda number=number: wishes.report(n=number) for number in range(20)]  # type: ignore[misc]
    # Each report is an update, too: it takes the next of the list before it is made.
    wishes.shadows.between += [each for report in reports for each in (report, lambda: None)]
    with pytest.raises(StaleVersion):
        wishes.want({"a": 1})
    assert wishes.states[0] == ({"a": 1}, ChangeState.REFUSED)


def test_a_change_whose_answer_was_lost_is_made_once_and_named(wishes: Wishes) -> None:
    wishes.shadows.lose_answer.append(DeviceServiceUnavailable("lost"))
    with pytest.raises(DeviceServiceUnavailable):
        wishes.want({"a": 1})
    assert wishes.states == [({"a": 1}, ChangeState.ASKED)]
    updates = len(wishes.shadows.updates)
    assert wishes.want({"a": 1}).desired == {"a": 1}
    assert (len(wishes.shadows.updates), wishes.audited()) == (updates, 1)


@pytest.mark.parametrize(
    ("before", "patch", "writes"),
    [
        ({"a": 1}, {"a": True}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": {}}, True),
        ({"a": 1}, {"b": {}}, False),
        ({"a": 1}, {"b": {"c": {"d": None}}}, False),
        ({"a": {"b": 1}}, {"a": {"b": None}}, True),
        ({"a": []}, {"a": []}, False),
    ],
    ids=["true for 1", "1.0 for 1", "no value for 1", "no value", "deep null", "last of an object", "empty list"],
)
def test_what_changes_nothing_writes_nothing_and_what_does_is_written_once(
    wishes: Wishes, before: dict[str, Any], patch: dict[str, Any], *, writes: bool
) -> None:
    wishes.want(before)
    updates = len(wishes.shadows.updates)
    for _ in range(2):
        wishes.want(patch)
        assert len(wishes.shadows.updates) - updates == writes


def test_levels_of_nulls_reach_the_broker_as_what_they_remove(wishes: Wishes) -> None:
    patch: Any = None
    for _ in range(40):
        patch = {"a": patch}
    wishes.want({"b": 1, "c": patch})
    assert wishes.shadows.updates[-1]["desired"] == {"b": 1}


def test_limits_hold_for_what_comes_out(wishes: Wishes) -> None:
    wishes.want({"a": "x" * 3_000})
    with pytest.raises(ValidationFailed) as refused:
        wishes.want({"b": "x" * 3_000})
    assert refused.value.first == "all desired settings together have at most 4096 bytes as JSON"
    assert wishes.want({"a": None, "b": "x" * 3_000}).desired == {"b": "x" * 3_000}


@pytest.mark.fault("F-47b")
@pytest.mark.parametrize("is_deleted", [True, False], ids=["deleted", "its deletion was lost"])
def test_who_takes_a_device_over_reads_nothing_of_before(wishes: Wishes, *, is_deleted: bool) -> None:
    hands = wishes.hands
    wishes.want({"a": 1, "keep": {"x": 1}})
    wishes.report(a=1, secret="s")
    hands.world.clock.pass_time(seconds=2)
    if not is_deleted:
        hands.transfers.shadows.delete = lambda thing: None  # type: ignore[method-assign]
    mine = hands.hand_over().current.device
    assert (hands.serial in wishes.shadows.stored) is not is_deleted
    seen = wishes.read(hands.bob, mine.id)
    assert (seen.desired, seen.reported, seen.delta, seen.desired_at, seen.reported_at) == ({}, {}, {}, {}, {})
    assert wishes.service.changes(hands.bob, mine.id, limit=50) == ([], None)
    with pytest.raises(NotFound):
        wishes.read(hands.ada, hands.device_id)
    with pytest.raises(NotFound):
        wishes.want({"a": 2})
    by = Asker(user_id=hands.bob, source=NOWHERE)
    after = wishes.service.change(hands.bob, mine.id, {"keep": {"x": 1}}, by=by)
    assert (after.desired, after.reported) == ({"keep": {"x": 1}}, {})
    left = wishes.shadows.read(hands.serial)
    assert (left.desired, left.reported) == ({"keep": {"x": 1}}, {}), "what was a former owner's is gone now"


def test_what_is_wanted_right_before_a_change_of_hands_is_asked_by_nobody(wishes: Wishes) -> None:
    """The giver's request has read its row, and then the device becomes another's."""
    read = wishes.shadows.read

    def overtaken(thing: str) -> Shadow:
        wishes.shadows.read = read  # type: ignore[method-assign]
        wishes.hands.hand_over()
        return read(thing)

    wishes.shadows.read = overtaken  # type: ignore[method-assign]
    with pytest.raises(NotFound):
        wishes.want({"a": 1})
    assert (wishes.shadows.updates, wishes.audited()) == ([], 0)


@pytest.mark.needs("iot")
@pytest.mark.parametrize("version", [None, 0], ids=["any version", "the first version"])
def test_a_request_that_dies_is_made_by_its_repeat_and_nobody_acts_without_a_name(
    stack: Stack, world: World, version: int | None
) -> None:
    shadows, made = stack.aws("iot-data"), world.create()
    device = made.current.device
    rows = world.stack.tables["devices"]
    table = stack.aws("dynamodb")
    start = table.scan(TableName=rows)["Items"]

    def seed() -> dict[str, Any]:
        for item in start:
            table.put_item(TableName=rows, Item=item)
        return {
            "tables": {name: stack.tables[name] for name in ("devices", "identity")},
            "user": world.user,
            "device": device.id,
            "desired": {"a": {"b": 1}},
            "version": version,
        }

    def redeliver(event: dict[str, Any]) -> dict[str, Any]:
        """The client reads the settings anew, as a repeat for a version is told to."""
        named = [each for each in table.scan(TableName=rows)["Items"] if each["type"]["S"] == "settings_change"]
        assert named or not desired(), "there is no change that nobody has asked for"
        return {**event, "version": None}

    def desired() -> Any:
        try:
            found = shadows.get_thing_shadow(thingName=device.serial_number, shadowName="settings")
        except shadows.exceptions.ResourceNotFoundException:
            return None
        return json.loads(found["payload"].read())["state"].get("desired")

    def fresh() -> dict[str, Any]:
        with suppress(shadows.exceptions.ResourceNotFoundException):
            shadows.delete_thing_shadow(thingName=device.serial_number, shadowName="settings")
        return seed()

    stack.use("api")
    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[rows],
        seed=fresh,
        redeliver=redeliver,
        normalise=lambda item: None if item["type"] == "settings_change" else item,
        other_state=desired,
        accept=lambda answer: answer == {"a": {"b": 1}},
    ).run()
    assert report.calls.count("iot-data-plane.UpdateThingShadow") == (1 if version is None else 2)

"""Devices and what they say; they have no fake: one suite for both engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from karma.core.clock import iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists, NotFound, StaleVersion
from karma.core.ids import DeviceId, UserId, new_id
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.devices.domain import CurrentDevice, Device, DeviceModel, DeviceState, Latest, PresenceEvent, Reading
from karma.devices.repository.device_mapping import GoneDevice
from karma.devices.repository.devices import DeviceSlice as Page
from karma.devices.transactional import require_device
from tests.contract.stores.rows import Rows
from tests.support.requests import asked
from tests.support.rows import DAY, LATER, NOW

MINUTE = timedelta(minutes=1)
ODD = ["a.b[0]", 'say "hi"', "it's", "what?", "温度", "size(fresh)", "-- or", "1", "pk", "MISSING", "\\", '""']
"""Names of metrics, as many as are written without a read."""


OF_THE_FIRST_ATTEMPT = ("id", "user_id", "serial_number", "state", "created_at", "updated_at", "version")
"""Fields that taking a creation over keeps, or sets by itself; all others are those of the new attempt."""
OF_CERTIFICATES = ("overlap", "is_bare", "first_id")
"""Fields that follow from the certificates of a device that is created, and from who had it before."""


def other_than(value: object, name: str) -> object:
    """Return another value of the same kind."""
    match value:
        case DeviceModel():
            return next(model for model in DeviceModel if model is not value)
        case None | str():
            return f"another {name}"
        case Mapping():
            return {"another": name}
        case tuple():
            return (f"another {name}",)
        case int():
            return value + 1
    raise AssertionError(f"{name} is of a kind that this test does not know")


def names(page: Page) -> list[str]:
    return [each.device.name for each in page.devices]


class TestACreation:
    def test_is_shown_when_it_has_ended(self, rows: Rows) -> None:
        device = rows.claimed(location={"lat": 1.5}, ip="192.0.2.1")
        assert rows.devices.current(device.user_id, device.id, consistent=True) is None
        claim = rows.devices.claim_of(device.serial_number)
        assert claim is not None
        assert (claim.device_id, claim.state, claim.certificate_ids) == (device.id, "provisioning", frozenset())

        active = rows.devices.activate(device, attempt="a1", certificate_id="c1", now=LATER)

        assert active == replace(device, state=DeviceState.ACTIVE, version=2, updated_at=active.updated_at)
        assert rows.devices.row(device.user_id, device.id) == active
        current = rows.devices.current(device.user_id, device.id)
        assert current is not None
        assert (current.device, current.latest, current.presence.events) == (active, Latest(), ())
        claim = rows.devices.claim_of(device.serial_number, consistent=True)
        assert claim is not None
        assert (claim.state, claim.certificate_ids) == ("active", frozenset({"c1"}))

    def test_takes_a_serial_number_once(self, rows: Rows) -> None:
        first = rows.claimed()
        with pytest.raises(AlreadyExists):
            rows.claimed(serial_number=first.serial_number)
        assert [device.id for device in rows.devices.rows(rows.ada.id, limit=5)] == [first.id]

    def test_is_made_once_for_a_key(self, rows: Rows) -> None:
        first, second = rows.claimed(), rows.claimed()
        assert rows.devices.made_by(first.user_id, asked()) is None
        rows.activate(first, request=asked())
        assert rows.devices.made_by(first.user_id, asked()) == first.id
        with pytest.raises(AlreadyExists):
            rows.activate(second, request=asked(at=LATER))
        with pytest.raises(IdempotencyKeyReused):
            rows.devices.made_by(first.user_id, asked("k", "another device"))
        # The record is over, whether it was deleted or not.
        other = asked("k", "another device", at=NOW + RETENTION)
        assert rows.devices.made_by(first.user_id, other) is None
        rows.activate(second, request=other)
        assert rows.devices.made_by(first.user_id, other) == second.id

    def test_is_gone_on_with_by_another_attempt(self, rows: Rows) -> None:
        first = rows.claimed()
        again = rows.new_device(serial_number=first.serial_number, name="Shed")
        taken = rows.devices.take_over(again, attempt="a2", now=LATER)
        assert (taken.id, taken.name, taken.created_at) == (first.id, "Shed", first.created_at)
        with pytest.raises(ConditionFailed):
            rows.devices.activate(first, attempt="a1", certificate_id="c1", now=LATER)
        with pytest.raises(ConditionFailed):
            rows.devices.discard(first, attempt="a1")
        rows.devices.activate(taken, attempt="a2", certificate_id="c2", now=LATER)
        for refused in (again, rows.new_device(), replace(again, user_id=UserId(new_id()))):
            with pytest.raises(AlreadyExists):
                rows.devices.take_over(refused, attempt="a3", now=LATER)

    @pytest.mark.fault("F-24c")
    def test_is_gone_on_with_by_every_field_of_the_other_attempt(self, rows: Rows) -> None:
        first = rows.claimed(ip="192.0.2.1", location={"lat": 1.5}, hardware={"ram_mb": 512})
        others: dict[str, Any] = {
            each.name: other_than(getattr(first, each.name), each.name)
            for each in fields(Device)
            if each.name not in (*OF_THE_FIRST_ATTEMPT, *OF_CERTIFICATES)
        }
        again = replace(first, **others)

        rows.devices.take_over(replace(again, id=DeviceId(new_id())), attempt="a2", now=LATER)

        stored = rows.devices.row(first.user_id, first.id, consistent=True)
        assert stored == replace(again, version=2, updated_at=iso(LATER))
        # And what the second attempt leaves out is not left over from the first.
        bare = rows.new_device(serial_number=first.serial_number, id=first.id)
        assert rows.devices.take_over(bare, attempt="a3", now=LATER) == replace(bare, version=3, updated_at=iso(LATER))

    def test_leaves_nothing_when_it_is_discarded(self, rows: Rows) -> None:
        device = rows.claimed()
        rows.devices.discard(device, attempt=None)
        assert rows.devices.row(device.user_id, device.id, consistent=True) is None
        assert rows.devices.claim_of(device.serial_number, consistent=True) is None
        with pytest.raises(ConditionFailed):
            rows.devices.discard(rows.device, attempt=None)


class TestLists:
    @pytest.fixture
    def five(self, rows: Rows) -> list[str]:
        """Return devices in the order of creation; the fourth is being deleted, a sixth is not yet created."""
        made = [rows.active(name=name) for name in ("b", "A", "d", "x", "C")]
        rows.devices.begin_delete(made[3], now=NOW)
        rows.claimed(name="y")
        return ["b", "A", "d", "C"]

    @pytest.mark.parametrize("limit", [1, 2, 3, 9])
    @pytest.mark.parametrize("newest_first", [True, False])
    def test_by_age_page_by_page(self, rows: Rows, five: list[str], limit: int, *, newest_first: bool) -> None:
        found: list[str] = []
        after: DeviceId | None = None
        for _ in range(6):
            page = rows.devices.by_age(rows.ada.id, newest_first=newest_first, limit=limit, after=after)
            found += names(page)
            if not page.more:
                break
            after = page.devices[-1].device.id
        assert found == (five[::-1] if newest_first else five)

    @pytest.mark.parametrize("descending", [True, False])
    def test_by_name_regardless_of_case(self, rows: Rows, five: list[str], *, descending: bool) -> None:
        first = rows.devices.by_name(rows.ada.id, descending=descending, limit=3)
        last = first.devices[-1].device
        second = rows.devices.by_name(rows.ada.id, descending=descending, limit=3, after=(last.name, last.id))
        assert (first.more, second.more) == (True, False)
        assert names(first) + names(second) == sorted(five, key=str.casefold, reverse=descending)

    def test_show_what_devices_said(self, rows: Rows) -> None:
        rows.devices.merge_latest(rows.serial_claim, Latest(last_seen_ms=5), now=NOW)
        for page in (
            rows.devices.by_name(rows.ada.id, descending=False, limit=3),
            rows.devices.by_age(rows.ada.id, newest_first=True, limit=3),
        ):
            [current] = page.devices
            assert isinstance(current, CurrentDevice)
            assert current.latest.last_seen_ms == 5

    def test_are_empty_for_others(self, rows: Rows, five: list[str]) -> None:
        other = UserId(new_id())
        assert rows.devices.by_age(other, newest_first=True, limit=5) == ([], False)
        assert rows.devices.among(other, [rows.device.id]) == []
        mine = (rows.ada.id, rows.device.id)
        assert rows.devices.active_of([mine, (other, rows.device.id), (rows.ada.id, DeviceId(new_id()))]) == {mine}
        assert rows.devices.by_name(other, descending=True, limit=5) == ([], False)
        assert rows.devices.rows(other, limit=5) == []
        assert rows.devices.count(other) == 0


class TestAChange:
    def test_is_seen_in_row_and_list(self, rows: Rows) -> None:
        device = rows.device
        rows.devices.change(device.user_id, device.id, {"name": "Shed", "tags": ["y"]}, version=2, now=LATER)
        changed = rows.devices.row(device.user_id, device.id, consistent=True)
        assert changed is not None
        assert (changed.name, changed.tags, changed.version) == ("Shed", ("y",), 3)
        assert names(rows.devices.by_name(device.user_id, descending=False, limit=5)) == ["Shed"]

    def test_of_an_older_version_or_of_what_is_not_shown_is_refused(self, rows: Rows) -> None:
        device = rows.device
        with pytest.raises(StaleVersion):
            rows.devices.change(device.user_id, device.id, {"name": "Shed"}, version=1, now=LATER)
        for unknown in (rows.half_made.id, DeviceId(new_id())):
            with pytest.raises(NotFound):
                rows.devices.change(device.user_id, unknown, {"name": "Shed"}, version=None, now=LATER)


class TestADeletion:
    def test_is_for_the_sweep_from_its_first_step_on(self, rows: Rows) -> None:
        device = rows.device
        rows.devices.begin_delete(device, now=NOW)
        with pytest.raises(ConditionFailed):
            rows.devices.begin_delete(device, now=NOW)
        assert rows.devices.current(device.user_id, device.id, consistent=True) is None
        assert rows.devices.unfinished(before=NOW, limit=5) == []
        [claim] = rows.devices.unfinished(before=NOW + MINUTE, limit=5)
        assert claim == rows.devices.claim_of(device.serial_number)

        rows.devices.finish_delete(device, now=LATER)
        with pytest.raises(ConditionFailed):
            rows.devices.finish_delete(device, now=LATER)

        assert rows.devices.claim_of(device.serial_number, consistent=True) is None
        assert rows.devices.unfinished(before=LATER + MINUTE, limit=5) == [GoneDevice(device.user_id, device.id)]
        rows.claimed(serial_number=device.serial_number)

    def test_lets_nothing_be_hung_on_the_device(self, rows: Rows) -> None:
        device = rows.device
        tx = Transaction()
        require_device(tx, device.user_id, device.id)
        tx.commit()
        rows.devices.begin_delete(device, now=NOW)
        tx = Transaction()
        require_device(tx, device.user_id, device.id)
        with pytest.raises(NotFound):
            tx.commit()

    def test_lists_what_is_unfinished_oldest_first(self, rows: Rows) -> None:
        made = []
        for minutes in (2, 0, 1):
            device = rows.new_device()
            rows.claim(device, attempt="a1", now=NOW + minutes * MINUTE)
            made.append(device.serial_number)
        found = rows.devices.unfinished(before=NOW + DAY, limit=2)
        assert [claim.serial_number for claim in found if not isinstance(claim, GoneDevice)] == [made[1], made[2]]


class TestWhatADeviceSays:
    def test_is_merged_whatever_the_order(self, rows: Rows) -> None:
        claim = rows.serial_claim
        newer = Latest(readings={"t": Reading(2.5, 20)}, last_seen_ms=20, ip="192.0.2.1", ip_ms=20)
        older = Latest(readings={"t": Reading(9.5, 10), "h": Reading(1, 10)}, last_seen_ms=10)
        plain = Latest(readings={"t": Reading(3, 30), "a.b[0]": Reading(1e300, 29)}, last_seen_ms=30)
        late = Latest(readings={"t": Reading(4.5, 25)}, last_seen_ms=31)
        merged = Latest()
        for said in (newer, older, older, plain, plain, late):
            assert rows.devices.merge_latest(claim, said, now=NOW)
            merged = merged.merge(said)
        current = rows.devices.current(claim.user_id, claim.device_id, consistent=True)
        assert current is not None
        assert current.latest == merged

    def test_is_written_with_what_others_say(self, rows: Rows) -> None:
        """26 devices are two calls; whatever is left out merges to the same as what is written alone."""
        claims = [rows.claim_of(rows.active()) for _ in range(26)]
        gone = rows.devices.current(claims[1].user_id, claims[1].device_id)
        assert gone is not None
        known = Latest(readings={"t": Reading(9, 90)}, last_seen_ms=90, ip="192.0.2.1", ip_ms=1)
        assert rows.devices.merge_latest(claims[0], known, now=NOW)
        rows.devices.begin_delete(gone.device, now=NOW)
        rows.devices.finish_delete(gone.device, now=NOW)
        said = {
            0: Latest(readings={"t": Reading(1, 89)}, last_seen_ms=91),  # older than what is known: `facts` has it
            1: Latest(readings={"t": Reading(1, 91)}, last_seen_ms=91),
            2: Latest(readings={name: Reading(1.5, 91) for name in ODD}, last_seen_ms=91),
            3: Latest(last_seen_ms=91, ip="192.0.2.2", ip_ms=91),
            4: Latest(readings={f"m{n}": Reading(n, 91) for n in range(13)}, last_seen_ms=91),
        }
        values = [said.get(n, Latest(readings={"t": Reading(n, 91)}, last_seen_ms=91)) for n in range(26)]
        for is_again in (False, True):
            done = rows.devices.freshen_each(list(zip(claims, values, strict=True)), now=NOW)
            assert done == [not is_again and n not in {1, 3, 4} for n in range(26)]
            for n in (1, 3, 4) if not is_again else range(26):
                left = rows.devices.merge_latest(claims[n], values[n], now=NOW, is_tried=True)
                assert left is (n != 1)
        for n, claim in enumerate(claims):
            current = rows.devices.current(claim.user_id, claim.device_id, consistent=True)
            assert (current is None) == (n == 1)
            if current is not None:
                assert current.latest == (known if n == 0 else Latest()).merge(values[n])

    def test_tells_whether_it_is_connected(self, rows: Rows) -> None:
        claim = rows.serial_claim
        on, off = PresenceEvent(10, 1, True, "s"), PresenceEvent(11, 1, False, "s")
        state = rows.devices.merge_presence(claim, [off], now=NOW)
        assert state is not None
        assert not state.connected
        assert rows.devices.merge_presence(claim, [on], now=NOW) == state
        current = rows.devices.current(claim.user_id, claim.device_id, consistent=True)
        assert current is not None
        assert current.presence == state

    def test_is_lost_with_it(self, rows: Rows) -> None:
        claim = rows.serial_claim
        rows.devices.finish_delete(rows.half_deleted, now=NOW)
        assert rows.devices.merge_latest(claim, Latest(last_seen_ms=1), now=NOW) is False
        assert rows.devices.merge_presence(claim, [PresenceEvent(1, 0, True, "s")], now=NOW) is None

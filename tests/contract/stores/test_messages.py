"""Telemetry, dead letters and what a deleted device leaves; they have no fake."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.core.clock import epoch_ms
from karma.core.dynamo.statements import WriteOutcome
from karma.core.ids import DeviceId, UserId, new_id
from karma.devices.domain import DEAD_LETTER_RETENTION_S
from karma.devices.payloads import Refused
from karma.devices.repository.dead_letters import KEPT_BYTES, NAMED, TOO_MANY
from karma.devices.repository.device_mapping import GoneDevice
from karma.devices.repository.hours import Cost
from karma.devices.repository.telemetry import OwnedBatch
from tests.contract.stores.rows import Rows
from tests.support.requests import asked
from tests.support.rows import NOW
from tests.support.wire import Wire, error, on

HOUR_MS = 3_600_000
NOW_MS = epoch_ms(NOW)


class TestTelemetry:
    def test_is_stored_once_and_another_body_is_refused(self, rows: Rows) -> None:
        device_id = rows.device.id
        assert rows.telemetry.store(device_id, rows.batch())
        assert rows.telemetry.store(device_id, rows.batch())
        assert not rows.telemetry.store(device_id, rows.batch(digest="other"))
        [batch] = rows.telemetry.batches(device_id, from_ms=NOW_MS, to_ms=NOW_MS + 1)
        assert (batch.min_ts, [tuple(sample) for sample in batch.samples]) == (NOW_MS, [(1, {"temp_c": 1.5})])

    def test_is_stored_with_others(self, rows: Rows) -> None:
        """One whose key is taken is refused by itself, and `holds` tells by what."""
        device_id, owner = rows.device.id, rows.ada.id
        batches = [rows.batch(number, at_ms=NOW_MS + number) for number in range(26)]
        assert rows.telemetry.store(device_id, batches[3])
        assert rows.telemetry.store(device_id, replace(batches[25], digest="other"))
        outcomes = rows.telemetry.store_new([OwnedBatch(device_id, each, owner) for each in batches])
        assert [number for number, each in enumerate(outcomes) if each is not WriteOutcome.DONE] == [3, 25]
        assert {outcomes[3], outcomes[25]} == {WriteOutcome.REFUSED}
        assert [rows.telemetry.holds(device_id, batches[number]) for number in (0, 3, 25)] == [True, True, False]
        again = rows.telemetry.store_new([OwnedBatch(device_id, each, owner) for each in batches])
        assert set(again) == {WriteOutcome.REFUSED}
        both = [*rows.telemetry.stored(device_id, from_ms=NOW_MS, to_ms=NOW_MS + 26)]
        assert [each.owner for each in both] == ["" if number in {3, 25} else owner for number in range(26)]
        assert rows.telemetry.store(device_id, batches[0]), "which it is no less than by itself"

    @pytest.mark.parametrize(
        "code", ["ThrottlingException", "ValidationException", "ProvisionedThroughputExceededException"]
    )
    def test_a_call_that_fails_leaves_each_to_be_stored_alone(self, rows: Rows, code: str) -> None:
        batches = [OwnedBatch(rows.device.id, rows.batch(number), rows.ada.id) for number in range(2)]
        with on(Wire(answer=lambda _number, _operation, _params: error(code))):
            assert rows.telemetry.store_new(batches) == [WriteOutcome.UNKNOWN] * 2

    def test_a_statement_that_fails_is_unknown_or_refused(self, rows: Rows) -> None:
        batches = [OwnedBatch(rows.device.id, rows.batch(number), rows.ada.id) for number in range(4)]
        codes = ["DuplicateItem", "ThrottlingError", "InternalServerError"]
        answers = [{"TableName": "t"}, *({"Error": {"Code": code, "Message": "m"}} for code in codes)]
        with on(Wire(answer=lambda _number, _operation, _params: {"Responses": answers})):
            told = rows.telemetry.store_new(batches)
        assert told == [WriteOutcome.DONE, WriteOutcome.REFUSED, WriteOutcome.UNKNOWN, WriteOutcome.UNKNOWN]

    def test_is_read_in_order_over_days_and_pages(self, rows: Rows) -> None:
        device_id, midnight = rows.device.id, epoch_ms(NOW.replace(hour=0))
        times = [midnight + n * 1000 for n in range(-60, 60)]
        for number, at in enumerate(times):
            rows.telemetry.store(device_id, rows.batch(number, at_ms=at))
        everything = rows.telemetry.batches(device_id, from_ms=midnight - HOUR_MS, to_ms=midnight + HOUR_MS)
        assert [batch.min_ts for batch in everything] == times
        for at, found in ((midnight - 1, times[:60]), (midnight, times[60:61]), (midnight + 30_000, times[60:91])):
            batches = rows.telemetry.batches(device_id, from_ms=at, to_ms=at + 1)
            assert [batch.min_ts for batch in batches] == found, "a batch may reach to the end of its hour of UTC"


class TestDeadLetters:
    @pytest.mark.fault("F-12a")
    @pytest.mark.parametrize("size", [KEPT_BYTES, KEPT_BYTES + 1, 128 * 1024])
    def test_are_kept_once_with_their_whole_payload(self, rows: Rows, size: int) -> None:
        refused = [Refused(f"samples[{n}].ts", "FUTURE") for n in range(NAMED + 1)]
        for _ in range(2):
            rows.letters.store(
                rows.device.id, refused=refused, taken=True, topic="t", payload=b"\xff" * size, received_ms=NOW_MS
            )
        [listed], more = rows.letters.page(rows.device.id, limit=5)
        assert (listed.refused, listed.refused_count, listed.taken) == (tuple(refused[:NAMED]), NAMED + 1, True)
        assert (listed.size, listed.payload, more) == (size, b"\xff" * KEPT_BYTES, False)
        assert rows.letters.get(rows.device.id, listed.id) == replace(listed, payload=b"\xff" * size)
        end_s = NOW_MS // 1000 + DEAD_LETTER_RETENTION_S
        assert rows.letters.get(rows.device.id, listed.id, now_s=end_s) is None
        for unknown in (listed.id[:-1] + "x", "../x", f"{NOW_MS}-{'0' * 16}"):
            assert rows.letters.get(rows.device.id, unknown) is None

    def test_are_listed_newest_first_until_they_are_over(self, rows: Rows) -> None:
        for n in range(5):
            refused = [Refused("f", str(n))]
            rows.letters.store(rows.device.id, refused=refused, topic="t", payload=b"", received_ms=NOW_MS + n * 1000)
        first, more = rows.letters.page(rows.device.id, limit=2)
        second, end = rows.letters.page(rows.device.id, limit=9, after=first[-1].id)
        reasons = [each.refused[0].reason for each in [*first, *second]]
        assert (reasons, more, end) == (["4", "3", "2", "1", "0"], True, False)
        late = NOW_MS // 1000 + DEAD_LETTER_RETENTION_S + 2
        alive, _ = rows.letters.page(rows.device.id, limit=9, now_s=late)
        assert [each.refused[0].reason for each in alive] == ["4", "3"]

    @pytest.mark.fault("F-26e")
    def test_that_are_not_kept_are_counted_in_one_of_their_hour(self, rows: Rows) -> None:
        device_id, hour = rows.device.id, NOW_MS // HOUR_MS
        rows.letters.store(
            device_id, refused=[Refused("", "NOT_JSON")], topic="t", payload=b"x", received_ms=hour * HOUR_MS
        )
        for more in (2, 3):
            rows.letters.sum_up(device_id, hour=hour, more=more)
        rows.letters.sum_up(device_id, hour=hour + 1, more=1)
        letters, _ = rows.letters.page(device_id, limit=9)
        sums = [(each.refused, each.refused_count, each.topic, each.size) for each in letters if not each.size]
        assert sums == [((TOO_MANY,), 1, "", 0), ((TOO_MANY,), 5, "", 0)]
        assert len(letters) == 3, "the one that is kept stays"
        for each in letters:
            assert rows.letters.get(device_id, each.id) == each
        assert rows.letters.page(device_id, limit=9, now_s=hour * 3600 + DEAD_LETTER_RETENTION_S + 3600) == ([], False)


@pytest.mark.fault("F-26e")
def test_of_an_hour_a_device_has_so_much_and_no_more(rows: Rows) -> None:
    def take(amount: int, hour: int = 1, cost: Cost = Cost.UNITS, device_id: DeviceId = rows.device.id) -> bool:
        return rows.hours.take(device_id, cost, amount, hour=hour, most=10)

    assert [take(amount) for amount in (6, 5, 4, 1)] == [True, False, True, False]
    assert all((take(10, hour=2), take(10, cost=Cost.LETTERS), take(10, device_id=DeviceId(new_id()))))
    gone = rows.left
    assert take(1, hour=3, device_id=gone.device_id)
    rows.leftovers.remove(gone, now=NOW, limit=100)
    assert take(10, hour=3, device_id=gone.device_id), "it goes with its device"


class TestWhatADeletedDeviceLeaves:
    def test_goes_piece_by_piece_and_its_tombstone_last(self, rows: Rows) -> None:
        gone = rows.left
        assert rows.leftovers.gone(gone.user_id) == [gone]
        left = 1 + 1 + 1 + 1 + 1 + 1  # command, its entry in the queue, its hour, dead letter, its payload, batch
        assert [rows.leftovers.remove(gone, now=NOW, limit=4) for _ in range(2)] == [4, left - 4]
        assert rows.leftovers.gone(gone.user_id) == []
        assert rows.commands.page(gone.device_id, limit=5) == ([], None)
        assert list(rows.telemetry.batches(gone.device_id, from_ms=NOW_MS, to_ms=NOW_MS + 1)) == []

    def test_goes_with_its_owner_as_far_as_the_time_reaches(self, rows: Rows) -> None:
        gone = rows.left
        assert not rows.leftovers.empty(gone.device_id, rows.purge(ends_in_s=-1), now=NOW)
        assert rows.leftovers.empty(gone.device_id, rows.purge(), now=NOW)
        assert rows.commands.page(gone.device_id, limit=5) == ([], None)
        assert not rows.leftovers.empty_owner(rows.purge()), "its tombstone is left"
        rows.leftovers.forget(gone)
        rows.leftovers.forget(gone)
        assert not rows.leftovers.empty_owner(rows.purge(ends_in_s=-1))
        assert rows.leftovers.empty_owner(rows.purge())
        assert rows.leftovers.gone(UserId(new_id())) == []

    def test_an_owner_with_a_device_is_not_empty(self, rows: Rows) -> None:
        rows.active(request=asked())
        assert not rows.leftovers.empty_owner(rows.purge())
        assert rows.devices.made_by(rows.ada.id, asked()) is None, "records of requests go"


def test_a_tombstone_names_owner_and_device(rows: Rows) -> None:
    gone = rows.left
    assert gone == GoneDevice(rows.ada.id, rows.device.id)
    assert rows.devices.unfinished(before=NOW + timedelta(hours=1), limit=5) == [gone]
    assert replace(rows.device).id == gone.device_id

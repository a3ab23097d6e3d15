"""Provisioning claims and the transactions of their hook; they have no fake: one suite for all engines."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.core.clock import epoch_ms
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyCreated, QuotaExceeded
from karma.core.ids import UserId, new_id
from karma.devices.domain import Latest
from karma.devices.provisioning import CertificateTaken, ClaimState, LastRefusal, TooManyClaims
from karma.identity.transactional import AccountGone
from tests.contexts.provisioning import ARN
from tests.contract.stores.rows import Rows
from tests.support.plans import limited, take
from tests.support.requests import asked
from tests.support.rows import LATER, NOW


class TestAClaim:
    def test_reads_back_whole_by_account_and_certificate(self, rows: Rows) -> None:
        claim = rows.open_claim
        assert (claim.state, claim.certificate_id, claim.used) == (ClaimState.ACTIVE, rows.factory.id, 0)
        assert rows.claims.of_account(rows.ada.id) == [claim]
        assert list(rows.claims.serials(claim.id)) == [rows.listed_serial, rows.other_serial]
        assert rows.admissions.find(rows.factory.id) == (rows.ada.id, claim.id)
        assert rows.claims.left(rows.ada.id) == [claim]
        assert rows.admissions.find("k2") is None

    def test_is_one_of_a_bounded_number_of_an_account_that_exists(self, rows: Rows) -> None:
        rows.begun_claim(rows.new_claim(), most=1)
        with pytest.raises(TooManyClaims):
            rows.begun_claim(rows.new_claim(), most=1)
        with pytest.raises(AccountGone):
            rows.begun_claim(rows.new_claim(user_id=UserId(new_id())))

    def test_is_opened_once_for_a_request(self, rows: Rows) -> None:
        rows.opened_claim(rows.half_claim, request=asked())
        with pytest.raises(ConditionFailed):
            rows.opened_claim(rows.half_claim)
        with pytest.raises(ConditionFailed):
            rows.claims.note_certificate(rows.half_claim, rows.factory)
        assert rows.claims.made_by(rows.ada.id, asked()) == rows.half_claim.id
        again = rows.begun_claim(rows.new_claim())
        with pytest.raises(AlreadyCreated):
            rows.claims.open(again, replace(rows.factory, id=new_id()), now=NOW, entry=rows.entry, request=asked())

    def test_that_nobody_got_is_discarded_and_no_other(self, rows: Rows) -> None:
        half = rows.half_claim
        assert rows.claims.due(before=LATER, limit=5) == [rows.claims.get(rows.ada.id, half.id)]
        assert rows.claims.discard(half)
        assert not rows.claims.discard(half)
        assert not rows.claims.discard(rows.opened_claim(rows.begun_claim(rows.new_claim())))

    def test_ends_with_its_time(self, rows: Rows) -> None:
        assert not rows.claims.end(rows.open_claim, now=NOW)
        over = replace(rows.open_claim, ends_ms=0)
        assert not rows.claims.end(over, now=LATER)
        assert rows.claims.end(rows.open_claim, now=LATER + timedelta(days=2))
        assert rows.claims.due(before=LATER + timedelta(days=3), limit=5) == []

    def test_is_revoked_once_and_removed_last(self, rows: Rows) -> None:
        claim, serial = rows.open_claim, rows.provisioned
        assert rows.claims.revoke(claim, now=NOW, entry=rows.entry)
        assert not rows.claims.revoke(claim, now=NOW, entry=rows.entry)
        assert rows.admissions.find(rows.factory.id) is None
        revoked = replace(claim, state=ClaimState.REVOKED)
        assert rows.claims.remove(revoked, limit=5) == 1, "the list; what is not settled stays"
        assert rows.claims.remove(revoked, limit=5) == 0
        assert rows.claims.settle(serial, now=NOW)
        assert not rows.claims.settle(serial, now=NOW)
        assert [rows.claims.remove(revoked, limit=5) for _ in range(2)] == [1, 1]
        assert rows.claims.left(rows.ada.id) == []

    def test_notes_a_refusal_unless_another_was_noted(self, rows: Rows) -> None:
        claim = rows.open_claim
        first, second = (LastRefusal(reason=each, serial_number="EOS-9", at_ms=1) for each in ("A", "B"))
        rows.claims.note_refusal(claim, first)
        rows.claims.note_refusal(claim, second)
        noted = rows.claims.get(claim.user_id, claim.id)
        assert noted is not None
        assert noted.refusal == first
        rows.claims.note_refusal(noted, second)
        again = rows.claims.get(claim.user_id, claim.id)
        assert again is not None
        assert again.refusal == second

    def test_of_a_deleted_account_is_removed_with_all_that_it_has(self, rows: Rows) -> None:
        claim, _ = rows.open_claim, rows.provisioned
        assert rows.claims.empty_claim(claim, rows.purge())
        assert rows.claims.left(rows.ada.id) == []
        assert list(rows.claims.serials(claim.id)) == []


class TestAnAdmission:
    def test_makes_a_device_that_is_shown_at_once(self, rows: Rows) -> None:
        serial = rows.provisioned
        current = rows.devices.current(rows.ada.id, serial.device_id, consistent=True)
        assert current is not None
        assert current.device.certificates == 1
        found = rows.admissions.look(rows.ada.id, serial.claim_id, rows.listed_serial)
        assert found is not None
        assert (found.is_listed, found.provisioned, found.claim.used) == (True, serial, 1)
        assert found.holder is not None
        assert found.holder.certificate_ids == {serial.certificate_id}
        assert [each.device.id for each in rows.devices.by_name(rows.ada.id, descending=False, limit=5).devices] == [
            serial.device_id
        ]

    def test_makes_one_of_a_serial_number_and_as_many_as_its_claim_may(self, rows: Rows) -> None:
        rows.admit_serial(rows.new_provisioned())
        with pytest.raises(ConditionFailed):
            rows.admit_serial(rows.new_provisioned())
        rows.admit_serial(rows.new_provisioned(serial_number=rows.other_serial))
        with pytest.raises(ConditionFailed):
            rows.admit_serial(rows.new_provisioned(serial_number="EOS-3"))

    def test_needs_room_in_the_plan_and_a_claim_that_is_open(self, rows: Rows) -> None:
        full = limited(rows.ada.id)
        for _ in range(full.allowed or 0):
            take(full)
        with pytest.raises(QuotaExceeded):
            rows.admit_serial(rows.new_provisioned(), reservation=full)
        new = rows.new_provisioned()
        assert rows.claims.revoke(rows.open_claim, now=NOW, entry=rows.entry)
        with pytest.raises(ConditionFailed):
            rows.admit_serial(new)

    def test_gives_a_device_without_certificates_its_first_one(self, rows: Rows) -> None:
        serial = rows.adopt_serial(rows.bare_device)
        current = rows.devices.current(rows.ada.id, serial.device_id, consistent=True)
        assert current is not None
        assert current.device.certificates == 1
        with pytest.raises(ConditionFailed):
            rows.adopt_serial(rows.bare_device)

    def test_replaces_a_lost_certificate_of_a_device_that_has_not_spoken(self, rows: Rows) -> None:
        serial = rows.provisioned
        rows.replaced_serial(serial)
        after = rows.as_provisioned(serial)
        assert set(after.replaced) == {serial.certificate_arn}
        with pytest.raises(ConditionFailed):
            rows.replaced_serial(serial)
        with pytest.raises(CertificateTaken):
            rows.replaced_serial(after, arn=serial.certificate_arn)
        last = f"{ARN}{new_id()}"
        rows.replaced_serial(after, arn=last)
        claim = rows.devices.claim_of(rows.listed_serial, consistent=True)
        assert claim is not None
        assert claim.certificate_ids == {last.rpartition("/")[2]}

    def test_replaces_none_once_anything_was_heard(self, rows: Rows) -> None:
        serial = rows.provisioned
        silent = rows.transfers.stored(rows.ada.id, serial.device_id)
        claim = rows.devices.claim_of(rows.listed_serial, consistent=True)
        assert silent is not None
        assert claim is not None
        assert rows.devices.merge_latest(claim, Latest(last_seen_ms=epoch_ms(NOW)), now=NOW)
        with pytest.raises(ConditionFailed):
            rows.admissions.replace(serial, f"{ARN}{new_id()}", silent, now=NOW)

    def test_knows_no_claim_of_anybody_else(self, rows: Rows) -> None:
        claim: Any = rows.open_claim
        assert rows.admissions.look(UserId(new_id()), claim.id, rows.listed_serial) is None
        found = rows.admissions.look(rows.ada.id, claim.id, "EOS-9")
        assert found is not None
        assert (found.is_listed, found.holder, found.provisioned) == (False, None, None)
        assert rows.claims.provisioned(claim.id, [rows.listed_serial]) == {}


class TestARenewal:
    def test_lets_both_speak_and_is_due_at_its_end(self, rows: Rows) -> None:
        new = rows.new_renewal()
        rows.rotations.renew(new, now=NOW)
        assert rows.rotations.get(new.device_id) == new
        claim = rows.serial_claim
        assert (set(claim.certificate_ids), claim.next_certificate_id) == (
            {"c1", new.certificate_id},
            new.certificate_id,
        )
        assert rows.rotations.due(before=LATER, limit=5) == []
        with pytest.raises(ConditionFailed):
            rows.rotations.renew(new, now=NOW)

    def test_comes_after_an_earlier_one_alone(self, rows: Rows) -> None:
        rows.rotations.finish(rows.ending, now=NOW)
        new = replace(rows.new_renewal(), old_certificate_id="c2", certificate_id="c3")
        rows.rotations.renew(new, now=NOW)
        assert rows.serial_claim.next_certificate_id == "c3"

    def test_needs_the_certificate_that_it_replaces_and_the_account(self, rows: Rows) -> None:
        with pytest.raises(ConditionFailed):
            rows.rotations.renew(replace(rows.new_renewal(), old_certificate_id="c9"), now=NOW)
        with pytest.raises(AccountGone):
            rows.rotations.renew(replace(rows.new_renewal(), user_id=UserId(new_id())), now=NOW)

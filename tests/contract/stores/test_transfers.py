"""Offers of devices, and the transaction that moves one; they have no fake: one suite for all engines."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.core.clock import epoch_ms
from karma.core.errors import Conflict, NotFound, QuotaExceeded
from karma.core.ids import UserId, new_id
from karma.devices.domain import Latest, PresenceEvent
from karma.devices.repository.device_mapping import GoneDevice
from karma.devices.transfer import OFFER_TTL, OfferDeclined, TransferChanged
from karma.identity.accounts import emails
from karma.identity.transactional import AccountGone
from tests.contract.stores.rows import Rows
from tests.support.plans import limited, take
from tests.support.rows import LATER, NOW

ADDRESS = "receiver@example.com"
SECOND = timedelta(seconds=1)


class TestAnOffer:
    def test_reads_back_whole_by_device_and_receiver(self, rows: Rows) -> None:
        offer = rows.put_offer(rows.new_offer())
        assert rows.transfers.offer(offer.device_id) == offer
        assert rows.transfers.offers_to([rows.receiver]) == [offer]
        assert rows.transfers.offers_to([rows.ada.id, emails.digest(ADDRESS)]) == []
        assert {*rows.transfers.offered([offer])} == {offer.device_id}

    def test_by_address_is_found_by_its_digest(self, rows: Rows) -> None:
        offer = rows.put_offer(rows.new_offer(user_id=None, email=ADDRESS))
        assert rows.transfers.offer(offer.device_id) == offer
        assert rows.transfers.offers_to(["nobody", emails.digest(ADDRESS)]) == [offer]

    def test_takes_the_place_of_an_earlier_one_also_a_declined_one(self, rows: Rows) -> None:
        first = rows.put_offer(rows.new_offer(user_id=None, email=ADDRESS))
        assert rows.transfers.decline(first, by=rows.ada.id, at=NOW, entry=rows.entry)
        second = rows.put_offer(rows.new_offer(offered_at=NOW + SECOND))
        assert rows.transfers.offer(second.device_id) == second
        assert rows.transfers.offers_to([rows.receiver, emails.digest(ADDRESS)]) == [second]

    def test_needs_an_active_device_and_both_accounts(self, rows: Rows) -> None:
        offer = rows.new_offer()
        with pytest.raises(AccountGone):
            rows.put_offer(rows.new_offer(user_id=UserId(new_id())))
        with pytest.raises(NotFound):
            rows.put_offer(rows.new_offer(offered_by=rows.stored().id))
        rows.devices.begin_delete(rows.device, now=NOW)
        with pytest.raises(NotFound):
            rows.put_offer(offer)
        assert rows.transfers.offered([offer]) == {}
        assert rows.transfers.stored(rows.ada.id, offer.device_id) is None

    def test_is_withdrawn_as_it_was_read_alone(self, rows: Rows) -> None:
        first = rows.put_offer(rows.new_offer())
        second = rows.put_offer(rows.new_offer(offered_at=NOW + SECOND))
        assert not rows.transfers.withdraw(first)
        assert rows.transfers.withdraw(second)
        assert not rows.transfers.withdraw(second)
        assert rows.transfers.offer(second.device_id) is None


class TestARefusal:
    def test_holds_until_the_offer_s_time_is_over(self, rows: Rows) -> None:
        offer = rows.put_offer(rows.new_offer())
        assert rows.transfers.refused_until(offer.device_id, rows.receiver) is None
        assert rows.transfers.decline(offer, by=rows.receiver, at=LATER, entry=rows.entry)
        assert not rows.transfers.decline(offer, by=rows.receiver, at=LATER, entry=rows.entry)
        assert rows.transfers.refused_until(offer.device_id, rows.receiver) == offer.expires_at
        declined = rows.transfers.offer(offer.device_id)
        assert declined is not None
        assert declined.declined
        with pytest.raises(OfferDeclined):
            rows.put_offer(rows.new_offer(offered_at=LATER))
        rows.put_offer(rows.new_offer(offered_at=NOW + OFFER_TTL))

    def test_goes_with_the_account(self, rows: Rows) -> None:
        offer = rows.put_offer(rows.new_offer())
        assert rows.transfers.decline(offer, by=rows.receiver, at=LATER, entry=rows.entry)
        assert rows.transfers.purge_account(replace(rows.purge(), user_id=rows.receiver))
        assert rows.transfers.offer(offer.device_id) is None
        assert rows.transfers.refused_until(offer.device_id, rows.receiver) is None


class TestAMove:
    def test_makes_the_device_the_receiver_s_with_what_it_needs_to_go_on(self, rows: Rows) -> None:
        offer, claim = rows.put_offer(rows.new_offer()), rows.serial_claim
        said = Latest.told(5, ip="192.0.2.1", firmware_version="2")
        assert rows.devices.merge_latest(claim, said, now=NOW)
        assert rows.devices.merge_presence(claim, [PresenceEvent(1, 0, True, "s")], now=NOW)
        before = rows.as_stored
        mine = rows.move(offer, before)
        current = rows.devices.current(rows.receiver, mine, consistent=True)
        assert current is not None
        assert (current.latest.ip, current.latest.firmware_version, current.presence.connected) == (None, "2", True)
        assert (current.device.name, current.device.tags, current.device.first_id) == ("Greenhouse", (), rows.device.id)
        now_of = rows.serial_claim
        assert (now_of.user_id, now_of.device_id, now_of.since_ms) == (rows.receiver, mine, epoch_ms(LATER))
        assert now_of.certificate_ids == claim.certificate_ids
        assert rows.devices.row(rows.ada.id, rows.device.id, consistent=True) is None
        assert rows.leftovers.gone(rows.ada.id) == [GoneDevice(rows.ada.id, rows.device.id)]
        assert rows.transfers.taken(rows.receiver, rows.device.id, now=LATER) == mine
        assert rows.transfers.taken(rows.ada.id, rows.device.id, now=LATER) is None
        assert [each.device.id for each in rows.devices.by_name(rows.receiver, descending=False, limit=5).devices] == [
            mine
        ]
        with pytest.raises(TransferChanged):
            rows.move(offer, before)

    def test_needs_offer_and_device_as_they_were_read(self, rows: Rows) -> None:
        offer = rows.put_offer(rows.new_offer())
        before = rows.as_stored
        rows.devices.change(rows.ada.id, offer.device_id, {"name": "Shed"}, version=None, now=NOW)
        with pytest.raises(TransferChanged):
            rows.move(offer, before)
        before = rows.as_stored
        rows.devices.merge_latest(rows.serial_claim, Latest(last_seen_ms=9), now=NOW)
        with pytest.raises(TransferChanged):
            rows.move(offer, before)
        before = rows.as_stored
        rows.devices.merge_presence(rows.serial_claim, [PresenceEvent(1, 0, True, "s")], now=NOW)
        with pytest.raises(TransferChanged):
            rows.move(offer, before)
        rows.put_offer(rows.new_offer(offered_at=NOW + SECOND))
        with pytest.raises(TransferChanged):
            rows.move(offer, rows.as_stored)
        assert rows.devices.current(rows.ada.id, offer.device_id, consistent=True) is not None

    def test_waits_for_a_certificate_that_is_being_changed(self, rows: Rows) -> None:
        offer = rows.put_offer(rows.new_offer())
        rows.rotation  # noqa: B018  which is being made
        with pytest.raises(Conflict) as refused:
            rows.move(offer, rows.as_stored)
        assert refused.value.code == "ROTATION_UNDER_WAY"

    def test_takes_a_device_of_the_receiver_s_plan_and_gives_the_giver_s_back(self, rows: Rows) -> None:
        offer, reservation = rows.put_offer(rows.new_offer()), limited(rows.receiver)
        assert reservation.allowed is not None
        for _ in range(reservation.allowed):
            take(reservation)
        with pytest.raises(QuotaExceeded):
            rows.move(offer, rows.as_stored, reservation=reservation)
        assert rows.devices.current(rows.ada.id, offer.device_id, consistent=True) is not None
        rows.move(offer, rows.as_stored)
        assert rows.devices.row(rows.ada.id, offer.device_id, consistent=True) is None

"""Logins through providers, and the deletion of accounts; they have no fake: one suite for both engines."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.billing.ports import Row
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound, StaleVersion
from karma.core.ids import UserId, new_id
from karma.identity.accounts.deletion import Deletion
from karma.identity.oauth.domain import Link, ProviderName
from karma.identity.ownership import AccountHolds, OwnedKind
from karma.identity.transactional import AccountGone, add_owned, is_disabled, remove_owned, require_account
from tests.contract.stores.rows import Rows
from tests.support.accounts import was_deleted
from tests.support.rows import DAY, LATER, NOW
from tests.support.stores import Database

SECOND = timedelta(seconds=1)


class TestAFlow:
    def test_is_used_once(self, rows: Rows) -> None:
        flow = rows.begun
        taken = rows.oauth.take_flow(flow.state_hash, provider=flow.provider, browser_hash="b", now=NOW)
        assert taken == flow
        assert rows.oauth.take_flow(flow.state_hash, provider=flow.provider, browser_hash="b", now=NOW) is None
        with pytest.raises(ConditionFailed):
            rows.oauth.create_flow(flow, now=NOW)

    def test_is_refused_to_others_and_when_it_is_over(self, rows: Rows) -> None:
        flow = rows.begun
        for provider, browser, at in (
            (ProviderName.GOOGLE, "b", NOW),
            (flow.provider, "c", NOW),
            (flow.provider, "b", flow.expires_at),
        ):
            assert rows.oauth.take_flow(flow.state_hash, provider=provider, browser_hash=browser, now=at) is None
        assert rows.oauth.take_flow("unknown", provider=flow.provider, browser_hash="b", now=NOW) is None


class TestAnAccount:
    def test_is_disabled_as_soon_as_somebody_says_so(self, rows: Rows) -> None:
        ada = rows.ada
        assert not is_disabled(ada.id)
        assert not is_disabled(UserId(new_id())), "there is none"
        rows.directory.change_account(ada, replace(ada, disabled_at=NOW), actor_id=None, entries=[])
        assert is_disabled(ada.id)


class TestAnIdentity:
    def test_opens_one_account(self, rows: Rows) -> None:
        ada, profile = rows.ada, rows.profile
        assert rows.oauth.find_identity(profile.provider, profile.subject_hash) is None
        assert rows.oauth.link(ada, profile, now=NOW, entry=rows.entry)
        assert not rows.oauth.link(rows.stored(), profile, now=NOW, entry=rows.entry)
        assert rows.oauth.find_identity(profile.provider, profile.subject_hash) == ada.id

    def test_is_not_linked_to_an_account_that_is_not_as_it_was_read(self, rows: Rows) -> None:
        assert not rows.oauth.link(replace(rows.ada, email="x@example.com"), rows.profile, now=NOW, entry=rows.entry)
        unproven = rows.stored(email_verified=False)
        assert not rows.oauth.link(unproven, rows.profile, now=NOW, entry=rows.entry)
        assert rows.oauth.find_identity(rows.profile.provider, rows.profile.subject_hash) is None

    def test_opens_it_until_it_is_unlinked(self, rows: Rows) -> None:
        ada, links = rows.ada, rows.linked
        assert links == [Link(provider=rows.profile.provider, subject_hash=rows.profile.subject_hash, linked_at=NOW)]
        rows.oauth.unlink(ada, links, entry=rows.entry)
        assert rows.oauth.links(ada.id) == []
        assert rows.oauth.find_identity(rows.profile.provider, rows.profile.subject_hash) is None
        with pytest.raises(StaleVersion):
            rows.oauth.unlink(ada, links, entry=rows.entry)
        changed = rows.users.read_user(ada.id)
        assert changed is not None
        assert rows.oauth.link(changed, rows.profile, now=LATER, entry=rows.entry)


class TestALoginCode:
    def test_is_used_once_and_in_time(self, rows: Rows) -> None:
        code = rows.given
        assert rows.oauth.take_login_code(code.hash, now=code.expires_at) is None
        assert rows.oauth.take_login_code(code.hash, now=NOW) == code
        assert rows.oauth.take_login_code(code.hash, now=NOW) is None
        assert rows.oauth.take_login_code("unknown", now=NOW) is None

    def test_is_not_given_to_a_deleted_account(self, rows: Rows) -> None:
        code = rows.code
        rows.gone  # noqa: B018
        with pytest.raises(AccountGone):
            rows.oauth.create_login_code(code, now=NOW)


class TestADeletion:
    def test_takes_the_place_of_the_account(self, rows: Rows) -> None:
        ada, leaving = rows.ada, rows.leaving
        assert (leaving.email, leaving.version) == (ada.email, 1)
        assert rows.deletions.get(ada.id) is None
        rows.deletions.begin(leaving, entry=rows.entry, due_at=LATER)
        assert rows.users.read_user(ada.id) is None
        assert rows.users.find_by_email(ada.email) is None
        assert rows.deletions.leaving(ada.id) is None
        assert rows.deletions.get(ada.id) == Deletion(user_id=ada.id, requested_at=NOW, finished_at=None, attempts=0)
        assert was_deleted(ada.id, at=NOW)
        with pytest.raises(NotFound):
            rows.deletions.begin(leaving, entry=rows.entry, due_at=LATER)
        tx = Transaction()
        require_account(tx, ada.id)
        with pytest.raises(AccountGone):
            tx.commit()

    def test_waits_until_the_account_holds_nothing(self, rows: Rows) -> None:
        for change in (add_owned, add_owned, remove_owned):
            tx = Transaction()
            change(tx, rows.ada.id, OwnedKind.PROJECT)
            tx.commit()
        leaving = rows.leaving
        with pytest.raises(AccountHolds) as caught:
            rows.deletions.begin(leaving, entry=rows.entry, due_at=LATER)
        assert caught.value.details == {"project": 1}
        for refused in (False, True):
            tx = Transaction()
            remove_owned(tx, rows.ada.id, OwnedKind.PROJECT)
            if not refused:
                tx.commit()
                continue
            with pytest.raises(ConditionFailed):
                tx.commit()
        rows.deletions.begin(leaving, entry=rows.entry, due_at=LATER)

    def test_of_an_account_that_was_changed_meanwhile_is_refused(self, rows: Rows) -> None:
        leaving = rows.leaving
        rows.users.rehash(rows.ada, "second", now=NOW)
        with pytest.raises(StaleVersion):
            rows.deletions.begin(leaving, entry=rows.entry, due_at=LATER)
        assert not was_deleted(rows.ada.id, at=NOW)

    def test_is_on_the_list_until_it_is_finished(self, rows: Rows) -> None:
        user_id = rows.gone
        assert rows.deletions.due(NOW, limit=5) == []
        [due] = rows.deletions.due(NOW + SECOND, limit=5)
        assert due.user_id == user_id
        assert rows.deletions.postpone(user_id, due_at=LATER, waits_for="files")
        assert rows.deletions.due(LATER, limit=5) == []
        assert [due.attempts for due in rows.deletions.due(LATER + SECOND, limit=5)] == [1]
        for at in (LATER, LATER + DAY):
            rows.deletions.finish(user_id, at=at, forget_at=LATER + DAY)
        finished = rows.deletions.get(user_id)
        assert finished is not None
        assert finished.finished_at == LATER
        assert not rows.deletions.postpone(user_id, due_at=LATER, waits_for=None)
        assert rows.deletions.due(LATER + DAY, limit=5) == []

    def test_lists_the_oldest_first(self, rows: Rows) -> None:
        made = []
        for minutes in (2, 0, 1):
            user = rows.stored()
            leaving = rows.deletions.leaving(user.id)
            assert leaving is not None
            entry = replace(rows.entry, user_id=user.id)
            rows.deletions.begin(leaving, entry=entry, due_at=NOW + timedelta(minutes=minutes))
            made.append(user.id)
        assert [due.user_id for due in rows.deletions.due(NOW + DAY, limit=2)] == [made[1], made[2]]


class TestWhatAnAccountLeaves:
    def test_goes_but_for_its_tombstone(self, rows: Rows, database: Database) -> None:
        rows.session, rows.key, rows.given  # noqa: B018
        rows.kept()
        rows.oauth.link(rows.ada, rows.profile, now=NOW, entry=rows.entry)
        rows.outbox.close(rows.pending, rows.pending.state.SENT, now=NOW)
        rows.gone  # noqa: B018
        assert not rows.remains.purge_account(rows.purge(ends_in_s=-1))
        assert rows.remains.purge_account(rows.purge())
        left = sorted(item["type"]["S"] for item in database.items("identity"))
        # A network is a hash of the address, not of the account; it is over after thirty days.
        assert left == ["account_tombstone", "known_network", "left_address"]

    @pytest.mark.fault("F-17b")
    def test_of_billing_goes_but_for_a_customer_that_was_somebodys(self, rows: Rows, database: Database) -> None:
        assert rows.customers.links_of(rows.ada.id) == []
        link = rows.customer
        assert rows.subscribe()
        assert rows.customers.links_of(rows.ada.id) == [link]
        assert not rows.customers.begin_ending(link.customer_id, UserId(new_id()), at=NOW, deleted_at=NOW)
        for _ in range(2):
            assert rows.customers.begin_ending(link.customer_id, rows.ada.id, at=NOW, deleted_at=NOW)
            [ending] = rows.customers.links_of(rows.ada.id)
            assert ending.user_id is None
        assert not rows.customers.link(link.customer_id, rows.root.id, seen=link, at=NOW)
        for _ in range(2):
            rows.customers.end(link.customer_id, rows.ada.id, at=NOW)
        assert rows.customers.links_of(rows.ada.id) == []
        assert not rows.subscriptions.purge(rows.purge(ends_in_s=-1))
        assert rows.subscriptions.purge(rows.purge())
        assert rows.subscriptions.row(rows.ada.id) == Row()
        assert rows.inbox.get(rows.event_id) is None
        [left] = database.items("billing")
        assert left["type"]["S"] == "customer_link"
        assert rows.ada.id not in str(left)

    def test_of_the_web_socket_goes_whole(self, rows: Rows, database: Database) -> None:
        rows.listening  # noqa: B018
        assert not rows.realtime.purge_account(rows.purge(ends_in_s=-1))
        assert rows.realtime.purge_account(rows.purge())
        assert database.items("realtime") == []

    def test_an_event_about_it_is_forgotten(self, rows: Rows) -> None:
        for _ in range(2):
            rows.inbox.forget(rows.event)
        assert rows.inbox.get(rows.event_id) is None

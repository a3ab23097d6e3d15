"""Nothing is stored for an account that was deleted: one suite for all stores that are asked to."""

from __future__ import annotations

import pytest

from karma.billing.arrival import Arrival
from karma.billing.domain import project
from karma.billing.ports import Row
from karma.conversations.domain import Thread, ThreadKey
from karma.core.errors import NotFound
from karma.core.ids import UserId, new_id
from karma.core.live import Channel
from karma.identity.accounts import one_time
from karma.identity.accounts.one_time import Purpose
from karma.identity.transactional import AccountGone
from karma.projects.domain import ProjectRole
from karma.realtime.domain import Connection, Ticket
from tests.contexts.avatars import avatar
from tests.contexts.projects import membership, new_project
from tests.contexts.tasks import task
from tests.contract.stores.rows import Rows
from tests.contract.stores.test_identity import api_key, entry_of, user
from tests.contract.stores.test_runs import run, segment
from tests.fakes.accounts import MemoryAccounts
from tests.fakes.avatars import MemoryAvatars
from tests.fakes.billing import MemoryBilling
from tests.fakes.projects import MemoryProjects
from tests.fakes.realtime import MemoryRealtime
from tests.fakes.runs import MemoryRuns
from tests.fakes.tasks import MemoryTasks
from tests.support.requests import asked
from tests.support.rows import LATER, NOW
from tests.support.stores import Store
from tests.unit.billing.test_domain import stripe_subscription

GONE = UserId(new_id())
TICKET = Ticket(hash="t" * 64, user_id=GONE, expires_at=LATER)
CONNECTION = Connection(id="c1=", user_id=GONE, connected_at=NOW)
CHANNEL = Channel(GONE, "user", GONE)


class Fakes:
    """Fakes with the attributes of `Rows`."""

    def __init__(self) -> None:
        self.keys = self.tokens = MemoryAccounts(gone={GONE})
        self.realtime = MemoryRealtime(gone={GONE})
        self.runs = MemoryRuns()
        self.runs.gone.add(GONE)
        self.projects = MemoryProjects()
        self.tasks = MemoryTasks(deleted_accounts={GONE})
        self.avatars = MemoryAvatars(deleted_accounts={GONE})
        self.arrivals = self.inbox = self.subscriptions = self.customers = MemoryBilling(gone={GONE})


@pytest.fixture
def stores(store: Store) -> Fakes | Rows:
    return Fakes() if store.in_memory else Rows()


def test_a_deleted_account_gets_no_key(stores: Fakes | Rows) -> None:
    key = api_key(user(id=GONE))
    with pytest.raises(AccountGone):
        stores.keys.create_api_key(key, request=asked("r"), entry=entry_of(key))
    assert stores.keys.get_api_key(GONE, key.id) is None


def test_a_deleted_account_gets_no_token_of_a_mail(stores: Fakes | Rows) -> None:
    _, token = one_time.issue(Purpose.VERIFY_EMAIL, user_id=GONE, email="a@example.com", asked_at=NOW, now=NOW)
    with pytest.raises(AccountGone):
        stores.tokens.create_token(token, now=NOW)
    assert stores.tokens.find_token(token.hash) is None


def test_a_deleted_account_gets_no_ticket_connection_or_channel(stores: Fakes | Rows) -> None:
    with pytest.raises(AccountGone):
        stores.realtime.put_ticket(TICKET, now=NOW)
    with pytest.raises(AccountGone):
        stores.realtime.connect(TICKET, CONNECTION)
    with pytest.raises(AccountGone):
        stores.realtime.subscribe(CONNECTION, CHANNEL, now=NOW)
    assert stores.realtime.get_ticket(TICKET.hash) is None
    assert stores.realtime.get_connection(CONNECTION.id) is None
    assert stores.realtime.channels(CONNECTION.id) == []


def test_a_deleted_account_gets_no_run(stores: Fakes | Rows) -> None:
    mine = run(user=GONE)
    thread = Thread(key=ThreadKey(GONE, mine.thread_id))
    with pytest.raises(AccountGone):
        stores.runs.start(mine, thread=thread, segment=segment(of=mine), messages=())
    assert stores.runs.run(mine.key) is None


def test_a_deleted_account_gets_no_project(stores: Fakes | Rows) -> None:
    project = new_project(GONE)
    with pytest.raises(AccountGone):
        stores.projects.create(project, membership(project, GONE, ProjectRole.OWNER), request=asked("t"))
    assert stores.projects.read(project.id, GONE) == (None, {})


def test_a_deleted_account_gets_no_task_or_avatar(stores: Fakes | Rows) -> None:
    with pytest.raises(AccountGone):
        stores.tasks.create(task(user=GONE), [], request=asked("t"))
    with pytest.raises(AccountGone):
        stores.avatars.create(avatar(user=GONE), request=asked("t"))
    assert stores.tasks.get(GONE, task().id) is None
    assert stores.avatars.get(GONE, avatar().id) is None


def test_a_deleted_account_gets_no_customer_event_or_subscription(stores: Fakes | Rows) -> None:
    stores.arrivals.store(Arrival("evt_1", "x", "{}"), received_at=NOW, due_at=NOW)
    with pytest.raises(AccountGone):
        stores.customers.link("cus_1", GONE, seen=None, at=NOW)
    with pytest.raises(AccountGone):
        stores.inbox.close("evt_1", at=NOW, note="", user_id=GONE)
    row = project(stripe_subscription(), user_id=GONE)
    with pytest.raises(AccountGone):
        stores.subscriptions.save(GONE, row, seen=Row(), event_id="evt_1", at=NOW)
    assert stores.customers.link_of("cus_1") is None
    assert stores.subscriptions.row(GONE) == Row()
    for _ in range(2):
        stores.inbox.forget("evt_1")
    assert stores.inbox.get("evt_1") is None


def test_no_channel_of_a_connection_that_is_not_known(store: Store) -> None:
    stores = Fakes() if store.in_memory else Rows()
    listener = UserId(new_id()) if isinstance(stores, Fakes) else stores.ada.id
    unknown = Connection(id="c2=", user_id=listener, connected_at=NOW)
    with pytest.raises(NotFound) as caught:
        stores.realtime.subscribe(unknown, CHANNEL, now=NOW)
    assert type(caught.value) is NotFound

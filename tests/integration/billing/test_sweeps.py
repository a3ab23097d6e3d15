import importlib
from datetime import UTC, datetime, timedelta

import pytest

from infra.catalog import SWEEPS
from karma.billing.arrival import Arrival
from karma.billing.repository.arrivals import ArrivalRepository
from karma.billing.repository.inbox import InboxRepository
from tests.integration.billing.conftest import Billing
from tests.support.stack import Drain


def test_the_schedule_sends_late_events_again(billing: Billing, drain: Drain) -> None:
    billing.stack.use("sweeps.queues")
    from background.sweeps.queues import lambda_handler

    now = datetime.now(UTC)
    store = ArrivalRepository()
    for name, minutes in (("evt_late", -1), ("evt_fresh", 1), ("evt_done", -1)):
        arrival = Arrival(name, "invoice.paid", '{"type": "a", "data": {}}')
        store.store(arrival, received_at=now, due_at=now + timedelta(minutes=minutes))
    InboxRepository().close("evt_done", at=now, note="")
    assert lambda_handler({"sweep": "inbox"}, billing.context) == {"changed": 1}
    assert lambda_handler({"sweep": "inbox"}, billing.context) == {"changed": 0}
    assert [message["Body"] for message in drain(billing.stack.queues["inbox"], 1)] == ["evt_late"]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_finds_nothing_in_an_empty_account(billing: Billing, sweep: str) -> None:
    function = SWEEPS[sweep]
    billing.stack.use(function.removeprefix("background."))
    lambda_handler = importlib.import_module(function).lambda_handler
    assert lambda_handler({"sweep": sweep}, billing.context) == {"changed": 0}

"""Several subscriptions of one user: all are shown, and the user is told how many go on costing money."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from karma.billing.answers import bought_view
from karma.billing.domain import VOID, Pause, SubscriptionStatus
from karma.billing.plans import PlanName
from karma.notices.domain import NoticeType
from tests.unit.billing.test_domain import PRO, STATUSES, TEAM
from tests.unit.billing.test_projector import ALICE, NOW, World

CUSTOMERS = {"sub_1": "cus_1", "sub_2": "cus_1", "sub_3": "cus_2"}
_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["active", *STATUSES]),
        "prices": st.sampled_from([(PRO,), (TEAM,)]),
        "cancel_at": st.sampled_from([None, NOW + timedelta(days=3)]),
        "pause": st.sampled_from([None, *(Pause(behavior=each, resumes_at=None) for each in (VOID, "keep_as_draft"))]),
    },
)


@pytest.fixture(autouse=True)
def _namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")


@pytest.mark.fault("F-15i")
@settings(max_examples=80)
@given(st.lists(st.tuples(st.sampled_from(sorted(CUSTOMERS)), _CHANGES), max_size=6))
@example([("sub_1", {}), ("sub_2", {}), ("sub_2", {"status": "canceled"})])
@example([("sub_1", {}), ("sub_3", {"prices": (PRO,)}), ("sub_2", {}), ("sub_1", {"cancel_at": NOW})])
def test_whoever_pays_for_several_sees_all_and_is_told_of_each_change(
    steps: list[tuple[str, dict[str, Any]]],
) -> None:
    """Whichever is shown, and even where the plan that holds and its status stay the same."""
    world = World()
    assert world.desk.opened("cus_2", ALICE, livemode=False)
    count = 0
    holds: tuple[Any, ...] = (PlanName.FREE, SubscriptionStatus.ACTIVE)
    for subscription_id, changes in steps:
        world.sell(subscription_id, customer_id=CUSTOMERS[subscription_id], **changes)
        before, was = count, holds
        told = len(world.store.notices)
        world.hear(id=subscription_id, customer=CUSTOMERS[subscription_id])
        row, at = world.subscription(), world.clock.now()
        live = [each for each in world.stripe.subscriptions.values() if each.status not in _OVER]
        assert {bought_view(each)["stripe_subscription_id"] for each in row.all} >= {each.id for each in live}
        renewing = [each for each in live if each.status in _CHARGED and not (each.cancel_at or each.pause)]
        count, holds = len(renewing), (row.entitled_plan(at), row.status)
        new = world.store.notices[told:]
        if count != before and count > 1:
            assert [(each.type, each.data["count"]) for each in new] == [_several(count)]
        elif (count != before and before > 1) or holds != was:
            assert [each.type for each in new] == [NoticeType.SUBSCRIPTION_CHANGED]
        else:
            assert new == []
        assert all((each.data["plan"], each.data["status"]) == holds for each in new)


_OVER = ("canceled", "incomplete_expired")
_CHARGED = ("active", "trialing", "past_due")


def _several(count: int) -> tuple[NoticeType, str]:
    return NoticeType.SUBSCRIPTIONS_SEVERAL, str(count)

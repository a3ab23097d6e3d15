"""Webhooks that localstripe signs and posts, through the inbox, to the subscription that a user sees."""

from collections.abc import Callable
from typing import Any

import pytest

from local.conversation import sell
from local.deployment import Deployment

from .conftest import User


@pytest.mark.needs("local-stage")  # whose command links the customer
def test_a_sale_at_the_stripe_peer_changes_the_plan(
    user: User, deployment: Deployment, eventually: Callable[..., Any]
) -> None:
    assert user.api.call("GET", "/subscriptions/current")["subscription"]["plan"] == "free"
    sold = sell(deployment.stripe, user.id, user.email, plan="karma_pro_month")

    def current() -> dict[str, Any] | None:
        found: dict[str, Any] = user.api.call("GET", "/subscriptions/current")["subscription"]
        return found if found["stripe_subscription_id"] == sold["id"] else None

    found = eventually(current, "the subscription that was sold")
    assert (found["plan"], found["status"]) == ("pro", "active")


@pytest.mark.needs("local-stage")
def test_a_cancellation_at_the_stripe_peer_ends_the_plan(
    user: User, deployment: Deployment, eventually: Callable[..., Any]
) -> None:
    sold = sell(deployment.stripe, user.id, user.email, plan="karma_team_month")

    def status() -> str:
        return str(user.api.call("GET", "/subscriptions/current")["subscription"]["status"])

    eventually(
        lambda: user.api.call("GET", "/subscriptions/current")["subscription"]["plan"] == "team", "the team plan"
    )
    deployment.stripe.call("DELETE", f"/v1/subscriptions/{sold['id']}")
    eventually(lambda: status() == "canceled", "the subscription canceled")

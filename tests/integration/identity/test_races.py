"""Two requests at the same moment: registrations of one address, and uses of one token."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.audit.domain import NOWHERE
from karma.billing.repository.usage import UsageRepository
from karma.core.errors import AlreadyExists, Gone
from karma.core.ids import UserId
from karma.core.ratelimit import LocalBuckets
from karma.identity.accounts import one_time
from karma.identity.accounts.one_time import Purpose
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.accounts.service import AccountService
from karma.identity.passwords.changes import PasswordService
from karma.mail.repository import OutboxRepository
from karma.mail.service import OutboxRelay
from tests.fakes.identity import CountingPasswords, MovableClock
from tests.fakes.mail import MemoryQueue
from tests.support.at_once import at_once
from tests.support.stack import Stack

TRIES = 200


class Services:
    def __init__(self, table: str) -> None:
        self.clock = MovableClock(datetime.now(UTC))
        self.tokens = OneTimeRepository()
        outbox_relay = OutboxRelay(outbox=OutboxRepository(), queue=MemoryQueue(), clock=self.clock)
        shared: dict[str, Any] = {
            "accounts": UserRepository(),
            "tokens": self.tokens,
            "passwords": CountingPasswords(),
            "outbox_relay": outbox_relay,
            "buckets": LocalBuckets(),
            "clock": self.clock,
            "on_change": lambda _: None,
        }
        self.accounts = AccountService(usage=UsageRepository(), **shared)
        self.password_changes = PasswordService(**shared)

    def reset_token(self, user_id: UserId, email: str) -> str:
        now = self.clock.now()
        text, token = one_time.issue(Purpose.RESET_PASSWORD, user_id=user_id, email=email, asked_at=now, now=now)
        self.tokens.create_token(token, now=now)
        return text


@pytest.fixture
def services(stack: Stack) -> Services:
    return Services(stack.tables["identity"])


@pytest.mark.req("R-K-10", "R-M-26")
def test_an_address_is_registered_by_one_of_two(services: Services, stack: Stack) -> None:
    outcomes: Counter[tuple[str, ...]] = Counter()
    for number in range(TRIES):

        def register(name: str, email: str = f"ada{number}@example.com") -> object:
            return services.accounts.register(email=email, password="correct horse", name=name)

        outcomes[tuple(sorted(at_once(lambda: register("Ada"), lambda: register("Eve"))))] += 1
    assert outcomes == {(AlreadyExists.__name__, "done"): TRIES}
    kinds: Counter[str] = Counter()
    for page in stack.aws("dynamodb").get_paginator("scan").paginate(TableName=stack.tables["identity"]):
        kinds.update(item["type"]["S"] for item in page["Items"])
    assert (kinds["user"], kinds["email_guard"], kinds["mail"]) == (TRIES, TRIES, TRIES)


def test_a_token_resets_one_password_of_two(services: Services) -> None:
    for number in range(20):
        email = f"ada{number}@example.com"
        user = services.accounts.register(email=email, password="correct horse", name="Ada")
        token = services.reset_token(user.id, email)

        def reset(password: str, token: str = token) -> None:
            services.password_changes.reset(token=token, password=password, source=NOWHERE)

        ended = at_once(lambda: reset("violet anvil harvest"), lambda: reset("copper lantern meadow"))

        assert sorted(ended) == [Gone.__name__, "done"]

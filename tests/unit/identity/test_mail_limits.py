"""Every kind of mail has a limit, whoever causes it: what SES sends in a day is shared by all accounts."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable

import pytest

from karma.audit.announcements import TOLD
from karma.audit.domain import NOWHERE, AuditEvent
from karma.core.errors import AppError
from karma.identity.accounts.correspondence import Correspondence
from karma.identity.api_keys.service import ApiKeyService
from karma.identity.domain import Locale, ProfileChange
from karma.identity.mail_limits import MAIL_LIMITS
from karma.mail.domain import MailKind
from tests.fakes.accounts import PASSWORD, AccountWorld, caller_of
from tests.unit.projects.test_invitations import by_email
from tests.unit.projects.test_service import World as ProjectWorld

pytestmark = pytest.mark.fault("F-21h")
EMAIL = "ada@example.com"


class World(AccountWorld):
    """An account, and how often each kind of mail was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.ada = self.verified(EMAIL)
        self.outbox.mails.clear()
        self.password = PASSWORD
        self.api_keys = ApiKeyService(
            api_keys=self.identities,
            owners=self.identities,
            passwords=self.passwords,
            buckets=self.buckets,
            outbox_relay=self.outbox_relay,
            clock=self.clock,
            on_change=self.changed.append,
        )

    def written(self) -> Counter[MailKind]:
        """Return the numbers of written mails by the kind that is sent: some are decided when the recipient is looked
        up."""
        recipients = Correspondence(people=self.identities, tokens=self.identities)
        mails = [*self.outbox.mails.values(), *self.identities.mails]
        found = (recipients.address(mail, now=self.clock.now()) for mail in mails)
        return Counter(addressed.kind for addressed in found if addressed is not None)

    def change_password(self, number: int) -> None:
        caller, new = caller_of(self.identities.users[self.ada.id]), f"quite-unlikely-{number}-zebra"
        self.password_changes.change(caller, current_password=self.password, password=new, source=NOWHERE)
        self.password = new

    def name_address(self, email: str) -> None:
        caller = caller_of(self.identities.users[self.ada.id])
        self.accounts.change_profile(caller, ProfileChange(email=email, current_password=PASSWORD), source=NOWHERE)

    def move(self, number: int) -> None:
        email = f"ada{number}@example.com"
        self.name_address(email)
        self.accounts.verify_email(token=self.token_for(email), source=NOWHERE)

    def sign_up(self, email: str) -> None:
        self.accounts.sign_up(email=email, password=PASSWORD, name="Ada", locale=Locale.EN, source=NOWHERE)

    def make_key(self) -> None:
        caller = caller_of(self.identities.users[self.ada.id], logged_in_at=self.clock.now(), session_id="s")
        self.identities.sessions["s"] = False
        self.api_keys.create_api_key(caller, name="k", scopes=frozenset({"*"}), expires_at=None, source=NOWHERE)


def _taken(world: World, number: int) -> None:
    if number == 0:
        world.verified("eve@example.com")
        world.outbox.mails.clear()
    world.name_address("eve@example.com")


CAUSES: dict[MailKind, Callable[[World, int], None]] = {
    MailKind.VERIFY_EMAIL: lambda world, _: world.sign_up("new@example.com"),
    MailKind.ALREADY_REGISTERED: lambda world, _: world.sign_up(EMAIL),
    MailKind.RESET_PASSWORD: lambda world, _: world.password_changes.forgot(email=EMAIL),
    MailKind.PASSWORD_CHANGED: World.change_password,
    MailKind.CONFIRM_NEW_EMAIL: lambda world, _: world.name_address("new@example.com"),
    MailKind.EMAIL_CHANGE_ASKED: lambda world, number: world.name_address(f"new{number}@example.com"),
    MailKind.EMAIL_TAKEN: _taken,
    MailKind.EMAIL_CHANGED: World.move,
    MailKind.API_KEY_CREATED: lambda world, _: world.make_key(),
}


ELSEWHERE = {MailKind.PROJECT_INVITATION, MailKind.DEVICE_OFFERED, MailKind.ALARM_RAISED, MailKind.ALARM_CLEARED}
"""Kinds whose contexts bound them, and test that."""


@pytest.mark.parametrize("kind", [kind for kind in MailKind if kind not in ELSEWHERE])
def test_each_kind_is_sent_as_often_as_its_limit_says_and_then_no_more(kind: MailKind) -> None:
    world, limit = World(), MAIL_LIMITS[kind]
    for number in range(3 * limit.amount + 5):
        with contextlib.suppress(AppError):
            CAUSES[kind](world, number)
    assert 1 <= world.written()[kind] <= limit.amount
    if kind is not MailKind.VERIFY_EMAIL:  # its address has an account now, so that its owner is told so
        assert world.written()[kind] == limit.amount


STRANGERS: dict[str, Callable[[World, str], object]] = {
    "registers it": World.sign_up,
    "asks for a new password": lambda world, email: world.password_changes.forgot(email=email),
    "names it as the new one": lambda world, email: world.accounts.change_profile(
        caller_of(world.verified(f"{len(world.identities.users)}@example.org")),
        ProfileChange(email=email, current_password=PASSWORD),
        source=NOWHERE,
    ),
}
"""Requests that anybody can make with an address that they know."""


@pytest.mark.fault("F-21l")
@pytest.mark.parametrize("act", STRANGERS.values(), ids=STRANGERS)
def test_nobody_who_knows_an_address_keeps_its_owner_from_it(act: Callable[[World, str], object]) -> None:
    """The owner moves there, or has the link sent again, however often strangers named it; each answer is a mail."""
    world, mine = World(), "mine@example.com"
    for _ in range(3 * max(limit.amount for limit in MAIL_LIMITS.values())):
        act(world, mine)
    world.outbox.mails.clear()
    if world.identities.find_by_email(mine) is None:
        world.name_address(mine)
        assert MailKind.CONFIRM_NEW_EMAIL in world.written()
    new = world.register("new@example.com")
    for _ in range(3 * MAIL_LIMITS[MailKind.VERIFY_EMAIL].amount):
        act(world, new.email)
    world.outbox.mails.clear()
    world.accounts.resend_verification(caller_of(new))
    assert MailKind.VERIFY_EMAIL in world.written()


@pytest.mark.fault("F-21l")
def test_an_address_gets_few_mails_of_one_account_and_of_many_one_each() -> None:
    world, accounts = World(), 5
    people = [world.verified(f"{number}@example.org") for number in range(accounts)]
    world.outbox.mails.clear()
    for person in people:
        for _ in range(10):
            with contextlib.suppress(AppError):
                change = ProfileChange(email="mine@example.com", current_password=PASSWORD)
                world.accounts.change_profile(caller_of(world.identities.users[person.id]), change, source=NOWHERE)
    assert world.written()[MailKind.CONFIRM_NEW_EMAIL] <= accounts + MAIL_LIMITS[MailKind.CONFIRM_NEW_EMAIL].amount


def test_invitations_end_with_the_day_s_of_their_sender() -> None:
    world, limit = ProjectWorld(), MAIL_LIMITS[MailKind.PROJECT_INVITATION]
    for number in range(limit.amount + 20):
        with contextlib.suppress(AppError):
            by_email(world, f"a{number}@example.com")
    assert len(world.store.mails) == limit.amount


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        (MailKind.PASSWORD_CHANGED, AuditEvent.PASSWORD_CHANGED),
        (MailKind.API_KEY_CREATED, AuditEvent.API_KEY_CREATED),
    ],
)
def test_what_is_mailed_of_no_more_is_still_told_and_logged(kind: MailKind, event: AuditEvent) -> None:
    world = World()
    for number in range(15):
        CAUSES[kind](world, number)
    assert [entry.event for entry in world.identities.audit].count(event) == 15
    assert event in TOLD, "in the application, in the transaction of the entry"


def test_who_takes_one_account_s_limit_takes_no_other_s() -> None:
    world = World()
    for number in range(9):
        world.change_password(number)
    world.ada, world.password = world.verified("eve@example.com"), PASSWORD
    before = world.written()[MailKind.PASSWORD_CHANGED]
    world.change_password(10)
    assert world.written()[MailKind.PASSWORD_CHANGED] == before + 1

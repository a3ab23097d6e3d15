"""Nobody sends their own words to an address that is not proven: each kind of mail is tried with a marked account."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.core.ids import UserId
from karma.identity.accounts import emails
from karma.identity.accounts.correspondence import Correspondence
from karma.identity.domain import Locale, Role, User
from karma.mail.domain import Mail, MailKind
from karma.mail.texts import compose
from tests.fakes.accounts import PUBLIC_URL, AccountWorld

CANARY = "canary-7f3a"
OWN, OTHER = "ada@example.com", "other@example.com"


def marked(world: AccountWorld, email: str, *, verified: bool) -> User:
    """Make an account whose texts, as far as its owner chooses them, all have the mark."""
    user = world.register(email, name=f"Win at {CANARY}")
    world.identities.users[user.id] = replace(
        user, email_verified=verified, avatar=f"https://{CANARY}.example/a.png", role=Role.USER
    )
    return world.identities.users[user.id]


@pytest.mark.fault("F-20b")
@pytest.mark.parametrize("kind", MailKind)
@pytest.mark.parametrize("verified", [False, True])
@pytest.mark.parametrize("other_has_an_account", [False, True])
@pytest.mark.parametrize("locale", Locale)
def test_no_mail_to_an_unproven_address_holds_what_a_person_wrote(
    kind: MailKind, verified: bool, other_has_an_account: bool, locale: Locale
) -> None:
    world = AccountWorld()
    about = marked(world, OWN, verified=verified)
    world.identities.users[about.id] = about = replace(about, locale=locale)
    if other_has_an_account:
        marked(world, OTHER, verified=verified)
    now = world.clock.now() + timedelta(seconds=1)
    recipients = Correspondence(people=world.identities, tokens=world.identities)
    ways: list[tuple[UserId | None, str | None, str | None]] = [
        (about.id, None, None),
        (about.id, OTHER, None),
        (None, None, emails.digest(OWN)),
        (None, None, emails.digest(OTHER)),
        (UserId("01994b94-9b20-7e83-b6c4-d2e1f0a98765"), None, emails.digest(OTHER)),
    ]
    for user_id, to, address_hash in ways:
        mail = Mail(kind=kind, user_id=user_id, to=to, address_hash=address_hash, created_at=now)
        addressed = recipients.address(mail, now=now)
        if addressed is None:
            continue
        owner = world.identities.find_by_email(addressed.to)
        letter = compose(addressed, public_url=PUBLIC_URL)
        assert CANARY not in letter.subject
        if owner is None or not owner.email_verified:
            assert CANARY not in letter.text + letter.html, f"to {addressed.to}"


@pytest.mark.fault("F-20b")
@pytest.mark.parametrize("kind", MailKind)
@pytest.mark.parametrize("locale", Locale)
def test_every_letter_can_greet_nobody(kind: MailKind, locale: Locale) -> None:
    world = AccountWorld()
    user = world.register()
    recipients = Correspondence(people=world.identities, tokens=world.identities)
    mail = Mail(kind=MailKind.RESET_PASSWORD, user_id=user.id, created_at=world.clock.now())
    addressed = recipients.address(mail, now=world.clock.now())
    assert addressed is not None
    assert addressed is not None
    letter = compose(replace(addressed, kind=kind, name=None, locale=locale.value, token=None), public_url=PUBLIC_URL)
    assert "None" not in letter.text
    assert "{" not in letter.text

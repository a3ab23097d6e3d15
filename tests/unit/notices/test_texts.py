"""Every notice has a text in every language, from what its data holds."""

from datetime import UTC, datetime

import pytest

from karma.audit.announcements import TOLD, notice_of, standing_notice_of
from karma.audit.domain import AuditEntry, AuditEvent
from karma.billing.domain import SubscriptionStatus
from karma.billing.plans import PlanName
from karma.core.ids import UserId
from karma.identity.domain import Locale
from karma.notices.domain import SEVERITIES, Notice, NoticeType
from karma.notices.texts import compose

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ADA = UserId("01890000-0000-7000-8000-00000000000a")
DETAILS = {
    AuditEvent.API_KEY_CREATED: {"api_key_id": "01890000-0000-7000-8000-0000000000aa"},
    AuditEvent.REFRESH_REUSED: {"session_id": "01890000-0000-7000-8000-0000000000bb"},
    AuditEvent.PROVIDER_LINKED: {"provider": "github"},
    AuditEvent.ROLE_CHANGED: {"from": "user", "to": "viewer"},
    AuditEvent.DISABLED: {"from": "active", "to": "disabled"},
    AuditEvent.ENABLED: {"from": "disabled", "to": "active"},
    AuditEvent.DEVICE_GIVEN: {"device_id": "01890000-0000-7000-8000-0000000000dd"},
    AuditEvent.PROJECT_INVITATION_RECEIVED: {"project_id": "01890000-0000-7000-8000-0000000000cc", "role": "viewer"},
    AuditEvent.WEBHOOK_DISABLED: {"webhook_id": "01890000-0000-7000-8000-0000000000dd", "reason": "gone"},
}
"""Details that the use cases put into their entries, as far as notices repeat them."""


def entry(event: AuditEvent, **more: str) -> AuditEntry:
    return AuditEntry(user_id=ADA, event=event, at=NOW, actor_id=None, details={**DETAILS.get(event, {}), **more})


@pytest.mark.parametrize("locale", Locale)
@pytest.mark.parametrize("event", TOLD)
def test_an_event_is_told_in_the_language_of_the_account(event: AuditEvent, locale: Locale) -> None:
    notice = notice_of(entry(event))
    assert notice is not None
    text = compose(notice, locale=locale.value)
    assert text.title
    assert "{" not in text.text
    assert text.text.isascii() == (locale is Locale.EN)


@pytest.mark.parametrize("locale", Locale)
def test_what_goes_on_without_a_session_is_told_with_its_numbers(locale: Locale) -> None:
    made = entry(AuditEvent.PASSWORD_RESET, schedules="2", webhooks="31", mcp_servers="0")
    told = standing_notice_of(made)
    assert told is not None
    assert (told.type, told == standing_notice_of(made)) == (NoticeType.ACCESS_STAYS, True)
    text = compose(told, locale=locale.value).text
    assert "31" in text
    assert text.isascii() == (locale is Locale.EN)
    assert standing_notice_of(entry(AuditEvent.PASSWORD_RESET)) is None


@pytest.mark.parametrize("locale", Locale)
def test_a_subscription_is_told_with_plan_and_state(locale: Locale) -> None:
    for plan in PlanName:
        for status in SubscriptionStatus:
            data = {"plan": plan.value, "status": status.value}
            told = Notice(user_id=ADA, type=NoticeType.SUBSCRIPTION_CHANGED, created_at=NOW, data=data)
            assert plan.value in compose(told, locale=locale.value).text


@pytest.mark.parametrize("locale", Locale)
def test_several_subscriptions_are_told_with_their_number(locale: Locale) -> None:
    data = {"plan": "team", "status": "active", "count": "12"}
    told = Notice(user_id=ADA, type=NoticeType.SUBSCRIPTIONS_SEVERAL, created_at=NOW, data=data)
    text = compose(told, locale=locale.value).text
    assert "12" in text
    assert "team" in text


def test_every_type_has_a_severity() -> None:
    assert set(SEVERITIES) == set(NoticeType)


def test_a_notice_is_the_entry_s_and_repeats_no_secret() -> None:
    made = entry(AuditEvent.API_KEY_CREATED, prefix="karma_abc123", scopes="*", note="mine")
    notice = notice_of(made)
    assert notice == Notice(
        id=made.id,
        user_id=ADA,
        type=NoticeType.API_KEY_CREATED,
        created_at=NOW,
        data=DETAILS[AuditEvent.API_KEY_CREATED],
    )


@pytest.mark.parametrize("event", sorted(set(AuditEvent) - set(TOLD)))
def test_an_event_of_ordinary_use_gives_no_notice(event: AuditEvent) -> None:
    assert notice_of(entry(event)) is None

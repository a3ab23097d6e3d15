"""The mail worker: killed at each of its calls, given what nobody of ours sent, and the schedule behind it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.core.ids import UserId, new_id
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.domain import Role, User
from karma.mail.domain import Mail, MailKind
from karma.mail.repository import OutboxRepository
from tests.integration.api.conftest import Api
from tests.integration.background.test_hostile import BODIES
from tests.integration.mail.conftest import Post
from tests.support.crash import CrashTest
from tests.support.stack import Context, SqsEvent, Stack

ENTRY = "background.mail:lambda_handler"


def account(stack: Stack, **changes: Any) -> User:
    now = datetime.now(UTC)
    user = User(
        id=UserId(new_id()),
        email="ada@example.com",
        name="Ada",
        avatar=None,
        password_hash="x",
        role=Role.USER,
        email_verified=False,
        created_at=now,
        updated_at=now,
    )
    user = replace(user, **changes)
    UserRepository().create_user(user)
    return user


def mail_of(user: User, kind: MailKind, **more: Any) -> Mail:
    return Mail(kind=kind, user_id=user.id, created_at=datetime.now(UTC), **more)


def items_of(stack: Stack) -> dict[str, Any]:
    found = stack.aws("dynamodb").scan(TableName=stack.tables["identity"], ConsistentRead=True)["Items"]
    return {f"{item['pk']['S']} {item['sk']['S']}": item for item in found}


class TestACrash:
    @pytest.mark.parametrize("kind", [MailKind.VERIFY_EMAIL, MailKind.CONFIRM_NEW_EMAIL, MailKind.PASSWORD_CHANGED])
    def test_anywhere_ends_in_a_mail_that_was_sent(
        self, stack: Stack, post: Post, sqs_event: SqsEvent, kind: MailKind
    ) -> None:
        """At least once: a death between sending and noting it sends again, with another token; both work."""
        stack.use("mail")
        to = "new@example.com" if kind is MailKind.CONFIRM_NEW_EMAIL else "ada@example.com"
        before = Counter[str]()

        def seed() -> dict[str, Any]:
            before.clear()
            before.update(each.to for each in post.mailbox())
            outbox = OutboxRepository()
            mail = mail_of(account(stack, moving_to=to), kind, to=to if kind is MailKind.CONFIRM_NEW_EMAIL else None)
            outbox.add(mail)
            return sqs_event([mail.id])

        def sent() -> bool:
            new = Counter(each.to for each in post.mailbox()) - before
            return set(new) == {to} and new[to] in {1, 2}

        report = CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            normalise=steady,
            other_state=sent,
            accept=lambda answer: answer == {"batchItemFailures": []},
            count_alike=False,  # a token whose mail was not sent stays behind, unknown to anybody
        ).run()
        assert "sesv2.SendEmail" in report.calls
        assert len(report.calls) >= 3


def steady(item: dict[str, Any]) -> dict[str, Any] | None:
    """Compare what a mail came to; tokens are made anew by each attempt."""
    if item["type"] == "mail":
        return {
            "pk": "MAIL",
            "sk": "MAIL",
            "state": item["state"],
            "pending": item["gsi1pk"] == "MAIL#PENDING",
            "to": item.get("to"),
        }
    if item["type"] == "one_time_token":
        return {"pk": "TOKEN", "sk": "TOKEN", "purpose": item["purpose"], "email": item["email"]}
    return None


class TestHostileMessages:
    @pytest.mark.parametrize("name", BODIES)
    def test_are_reported_and_change_nothing(self, stack: Stack, post: Post, name: str) -> None:
        before = items_of(stack)
        assert len(post.handle([BODIES[name]])) == 1
        assert items_of(stack) == before == {}
        assert post.mailbox() == []

    def test_about_mails_that_nobody_wrote_are_passed_over(self, stack: Stack, post: Post) -> None:
        assert post.handle([new_id(), "0" * 8 + "-0000-0000-0000-" + "0" * 12]) == []
        assert items_of(stack) == {}

    def test_do_not_hold_back_the_others(self, stack: Stack, post: Post) -> None:
        mail = mail_of(account(stack), MailKind.VERIFY_EMAIL)
        OutboxRepository().add(mail)
        assert len(post.handle([*list(BODIES.values())[:4], mail.id])) == 4
        assert [each.to for each in post.mailbox()] == ["ada@example.com"]

    @pytest.mark.parametrize("email", ["ä@example.com", "a@" + "ä" * 70 + ".example"])
    def test_about_addresses_that_take_no_mail_end(self, stack: Stack, post: Post, email: str) -> None:
        user = account(stack)
        mail = mail_of(user, MailKind.EMAIL_CHANGED, to=email)
        OutboxRepository().add(mail)
        assert post.handle([mail.id]) == []
        item = items_of(stack)[f"MAIL#{mail.id} MAIL"]
        assert (item["state"], "to" in item, item["gsi1pk"]) == ({"S": "refused"}, False, {"S": f"USER#{user.id}"})


@pytest.mark.fault("F-20a")
def test_a_mail_goes_to_the_domain_that_is_stored(stack: Stack, post: Post) -> None:
    mail = mail_of(account(stack), MailKind.EMAIL_CHANGED, to="ada@straße.example")
    OutboxRepository().add(mail)
    assert post.handle([mail.id]) == []
    assert [each.to for each in post.mailbox()] == ["ada@xn--strae-oqa.example"]


class TestTheProvider:
    def test_that_does_not_take_a_mail_is_asked_again(
        self, stack: Stack, lambda_context: Context, sqs_event: SqsEvent
    ) -> None:
        """Nobody verified the sender here: SES answers MessageRejected."""
        post = Post(stack, lambda_context, sqs_event)
        mail = mail_of(account(stack), MailKind.VERIFY_EMAIL)
        OutboxRepository().add(mail)
        assert len(post.handle([mail.id])) == 1
        assert items_of(stack)[f"MAIL#{mail.id} MAIL"]["state"] == {"S": "pending"}
        stack.aws("sesv2").create_email_identity(EmailIdentity="example.com")
        assert post.handle([mail.id]) == []
        assert len(post.mailbox()) == 1

    def test_is_given_an_address_in_its_own_alphabet(self, stack: Stack, post: Post) -> None:
        mail = mail_of(account(stack), MailKind.EMAIL_CHANGED, to="ada@bücher.example")
        OutboxRepository().add(mail)
        assert post.handle([mail.id]) == []
        assert [each.to for each in post.mailbox()] == ["ada@xn--bcher-kva.example"]


class TestTheSchedule:
    def test_sends_late_mails_again(self, stack: Stack, api: Api, post: Post, lambda_context: Context) -> None:
        import background.sweeps.queues  # noqa: F401  before use(): it clears what the module keeps

        api.register("ada@example.com")
        post.waiting()  # lost
        outbox = OutboxRepository()
        late = Mail(
            kind=MailKind.PASSWORD_CHANGED,
            user_id=UserId(new_id()),
            created_at=datetime.now(UTC) - timedelta(minutes=3),
        )
        outbox.add(late)
        stack.use("sweeps.queues")
        from background.sweeps.queues import lambda_handler

        assert lambda_handler({"sweep": "mail"}, lambda_context) == {"changed": 1}
        assert lambda_handler({"sweep": "mail"}, lambda_context) == {"changed": 0}
        assert [message["Body"] for message in post.waiting()] == [late.id]
        assert post.handle([late.id]) == []
        assert f"MAIL#{late.id} MAIL" not in items_of(stack), "nobody has the account"

"""Operations on a deployed stage: administrators, the Stripe inbox, runs, migrations.

The stage's own addresses and table names come from the deployed functions' environments; on this machine they are
asked of the local engine, elsewhere of AWS with the settings of the shell.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from secrets import token_urlsafe
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from local import ports
from local.engine import MiniStack
from local.errors import LocalError
from local.places import ROOT, Places

if TYPE_CHECKING:
    from karma.billing.inbox import InboxService
    from karma.identity.sessions.rotation import Rotation

_STACKS = ("data", "app")
_IMPORT_ROOTS = (ROOT / "layers" / "common" / "python", ROOT / "functions")


class Operations:
    """Use cases on one stage; this process takes the environment of the stage's functions."""

    def __init__(self, stage: str, places: Places) -> None:
        """Point the AWS SDK at the local engine when the stage is `local`.

        Raises:
            LocalError: the stage is not deployed, or cannot be reached.
        """
        for root in _IMPORT_ROOTS:
            sys.path.insert(0, str(root))
        if stage == "local":
            chosen = ports.remembered(places.ports)
            if not chosen:
                raise LocalError("there is no local environment; `make dev` starts one")
            engine = MiniStack(places, chosen["engine"], chosen["mqtt"], persistent=True)
            os.environ.update(engine.client_environment())
        try:
            cloudformation = boto3.client("cloudformation")
            stacks = [
                cloudformation.describe_stacks(StackName=f"karma-{stage}-{name}")["Stacks"][0] for name in _STACKS
            ]
        except (BotoCoreError, ClientError) as unreachable:
            hint = "; `make dev` starts it" if stage == "local" else ""
            raise LocalError(f"stage {stage} cannot be reached{hint}: {unreachable}") from None
        self._outputs = {
            each["OutputKey"]: each["OutputValue"] for stack in stacks for each in stack.get("Outputs", [])
        }

    def create_admin(self, email: str, password: str, name: str) -> str:
        """Create an administrator, or promote the account with the address; return its id.

        Raises:
            LocalError: the address or the password is not accepted.
        """
        self._become("FunctionApi")
        from api.services import identity

        with _translated():
            return str(identity.administration().make_admin(email=email, password=password, name=name).id)

    def list_events(self, status: str) -> Iterator[str]:
        """Yield a line for each stored Stripe event of a status, up to 100.

        Raises:
            LocalError: there is no such status.
        """
        from karma.billing.domain import EventState
        from karma.core.clock import iso

        if status not in set(EventState):
            raise LocalError(f"status: must be one of {', '.join(EventState)}")
        for event in self._inbox().page(EventState(status), limit=100, start=None).events:
            yield f"{event.id}  {event.type}  {iso(event.received_at)}  {event.note or event.last_error}".rstrip()

    def show_event(self, event_id: str) -> str:
        """Return a stored Stripe event with the ids it names, as JSON.

        Raises:
            LocalError: there is no such event.
        """
        inbox = self._inbox()
        from karma.billing.answers import event_view

        with _translated():
            return json.dumps(event_view(inbox.event(event_id)), indent=2)

    def replay_event(self, event_id: str) -> None:
        """Handle a stored Stripe event once more.

        Raises:
            LocalError: there is no such event.
        """
        inbox = self._inbox()
        with _translated():
            inbox.replay(event_id)

    def dismiss_event(self, event_id: str, reason: str) -> None:
        """Close a stored Stripe event that nobody will handle.

        Raises:
            LocalError: there is no such event, or it was handled.
        """
        inbox = self._inbox()
        with _translated():
            inbox.dismiss(event_id, reason=reason, actor_id=None)

    def link_customer(self, customer_id: str, user_id: str, *, from_user_id: str | None) -> None:
        """Link a customer of Stripe to the account that they pay for.

        Raises:
            LocalError: another account has the customer, or there is no such account.
        """
        self._become("FunctionApi")
        from api.services import billing
        from karma.core.ids import UserId

        with _translated():
            billing.customers().relink(customer_id, UserId(user_id), from_user_id=from_user_id, actor_id=None)

    def explain_run(self, run_id: str) -> str:
        """Describe a run.

        Raises:
            LocalError: there is no such run.
        """
        self._become("FunctionBackgroundRuns")
        from karma.core.clock import SystemClock
        from karma.core.ids import RunId
        from karma.runs.explain import explain
        from karma.runs.repository import RunRepository

        with _translated():
            return explain(RunId(run_id), store=RunRepository(), clock=SystemClock())

    def migrate(self, direction: str) -> Iterator[str]:
        """Run `up` or `down`, or count items for `status`; yields lines to print."""
        from karma.core import aws
        from karma.core.migrate import Migrator

        migrator = Migrator(aws.client("dynamodb"), self.tables)
        if direction == "status":
            for table, counts in migrator.status().items():
                if not counts:
                    yield f"{table}: empty"
                for (kind, schema), count in sorted(counts.items()):
                    yield f"{table}: {count} x {kind or '(no type)'}, schema {schema}"
            return
        ran = False
        for report in migrator.up() if direction == "up" else migrator.down():
            ran = True
            step = report.step
            yield f"{step.table} {step.type} {direction}: {report.rewritten} rewritten, {report.skipped} left for later"
        if not ran:
            yield "there are no migrations: every stored layout is the first one"

    def fill_search(self, account: str = "") -> Iterator[str]:
        """Write rows of search for objects that have none, or make an account's anew; yields lines to print."""
        self._become("FunctionApi")
        from karma.core import aws
        from karma.core.clock import SystemClock
        from karma.core.ids import UserId
        from karma.core.searchables import declared
        from karma.search.feed import Feed
        from karma.search.filling import Filling
        from karma.search.repository import SearchRepository

        rows, owner = SearchRepository(), UserId(account) if account else None
        with _translated():
            if owner is not None:
                rows.forget(owner)
            filling = Filling(aws.client("dynamodb"), self.tables, Feed(rows, declared(), SystemClock()))
            for table in filling.run(owner=owner):
                yield f"{table.name}: {table.written} rows written"

    def show_keys(self) -> str:
        """Describe which keys sign and are accepted, and the next step; the text has no key."""
        self._become("FunctionApi")
        from karma.core import secrets
        from karma.identity.sessions.rotation import rotation_of

        return _keys_line(rotation_of(secrets.read(os.environ["AUTH_SECRET_ARN"])[0]))

    def rotate_keys(self, *, early: bool) -> str:
        """Make the next step of the rotation of the keys, and describe the one after it.

        Raises:
            LocalError: it is too early for the step, or another process has just made it.
        """
        self._become("FunctionApi")
        from karma.core import secrets
        from karma.core.clock import SystemClock
        from karma.identity.sessions.rotation import NotDue, advance, rotation_of

        arn = os.environ["AUTH_SECRET_ARN"]
        secret, version = secrets.read(arn)
        step = rotation_of(secret).step
        try:
            after = advance(secret, now=SystemClock().now(), new_key=lambda: token_urlsafe(48), early=early)
        except NotDue as too_early:
            raise LocalError(str(too_early)) from None
        with _translated():
            secrets.write(arn, after, seen=version)
        return f"{step}: done\n{_keys_line(rotation_of(after))}"

    @property
    def tables(self) -> Mapping[str, str]:
        """Return the deployed tables by short name."""
        return {key[5:].lower(): value for key, value in self._outputs.items() if key.startswith("Table")}

    def _inbox(self) -> InboxService:
        self._become("FunctionBackgroundSweepsQueues")
        from karma.billing.inbox import InboxService
        from karma.billing.repository.inbox import InboxRepository
        from karma.core.clock import SystemClock
        from karma.integrations.sqs import SqsQueue

        queue = SqsQueue(os.environ["INBOX_QUEUE_URL"])
        return InboxService(inbox=InboxRepository(), queue=queue, clock=SystemClock())

    def _become(self, function: str) -> None:
        from karma.core.dynamo.tables import bind_names

        found = boto3.client("lambda").get_function_configuration(FunctionName=self._outputs[function])
        variables: dict[str, str] = found.get("Environment", {}).get("Variables", {})
        os.environ.update(variables)
        tables = {name.removesuffix("_TABLE").lower(): name for name in variables if name.endswith("_TABLE")}
        bind_names({logical: variables[name] for logical, name in tables.items()})


def _keys_line(rotation: Rotation) -> str:
    from karma.core.clock import iso

    due = f", due at {iso(rotation.due_at)}" if rotation.due_at else ""
    return f"{rotation.current} signs; accepted: {', '.join(rotation.accepted)}; next: {rotation.step}{due}"


@contextmanager
def _translated() -> Iterator[None]:
    from karma.core.errors import AppError, ValidationFailed

    try:
        yield
    except ValidationFailed as refused:
        wrong = [each for each in refused.details or () if isinstance(each, dict)]
        raise LocalError("; ".join(f"{each['field']}: {each['message']}" for each in wrong)) from None
    except AppError as refused:
        raise LocalError(refused.message) from None

"""One person with everything that hangs on an account, as the repositories' scenarios need it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from karma.agents.domain import Agent, AgentSpec
from karma.agents.repository import DynamoAgentStore
from karma.audit.repository import AuditRepository
from karma.billing.arrival import Arrival
from karma.billing.domain import project
from karma.billing.ports import CustomerLink
from karma.billing.repository.arrivals import ArrivalStore
from karma.billing.repository.customers import CustomerRepository
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.repository.usage import UsageRepository
from karma.configuration.domain import Change, Component, ComponentType
from karma.configuration.repository import ConfigurationRepository
from karma.conversations.domain import History, Message, Thread, ThreadKey
from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.dynamo.leases import DynamoLeases
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import (
    AgentId,
    ApiKeyId,
    CommandId,
    DeviceId,
    ProjectId,
    RunId,
    TaskId,
    ThreadId,
    UserId,
    new_id,
)
from karma.core.leases import Pool
from karma.core.purge import Purge
from karma.core.ratelimit import Limit
from karma.devices.domain import Command, CommandStatus, Device, DeviceModel, DeviceState
from karma.devices.payloads import Refused
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.devices import DeviceRepository, Gone, Guard
from karma.devices.repository.hours import HourRepository
from karma.devices.repository.leftovers import LeftoverRepository
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.samples import Batch
from karma.files.repository.files import FileRepository
from karma.identity.accounts import one_time
from karma.identity.accounts.deletion import Leaving
from karma.identity.accounts.one_time import OneTimeToken, Purpose
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.accounts.repository.remains import AccountRemains
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.domain import ApiKey, Credential, RefreshToken
from karma.identity.oauth.domain import Flow, Link, LoginCode, Profile, ProviderName
from karma.identity.oauth.repository import OAuthRepository
from karma.identity.sessions.logins import LoginPlace
from karma.identity.sessions.repository import SessionRepository
from karma.mail.domain import Mail, MailKind
from karma.mail.repository import OutboxRepository
from karma.notices.domain import Notice
from karma.notices.repository import NoticeRepository
from karma.notices.transactional import add_notice
from karma.projects.domain import INVITATION_TTL, Invitation, Membership, Project, ProjectRole
from karma.projects.ports import MemberChange
from karma.projects.repository import ProjectRepository
from karma.realtime.domain import Channel, Connection, Ticket
from karma.realtime.repository import RealtimeRepository
from karma.runs.domain import Run, RunEnd, RunKey, RunStatus, Segment
from karma.runs.repository import DynamoRunStore
from karma.tasks.domain import Subtask, Task
from karma.tasks.ports import GoneTask
from karma.tasks.repository import DynamoTaskStore
from tests.contexts.avatars import AvatarRows
from tests.contract.stores import file_rows
from tests.contract.stores.test_configuration import change as a_change
from tests.contract.stores.test_notices import notice as a_notice
from tests.contract.stores.test_projects import membership
from tests.contract.stores.test_projects import new_project as a_project
from tests.contract.stores.test_tasks import parts
from tests.contract.stores.test_tasks import task as a_task
from tests.support.plans import limited, reserved
from tests.support.rows import DAY, LATER, NOW
from tests.unit.billing.test_domain import stripe_subscription

TEN = Limit("ten", 10, timedelta(minutes=1))
TWO_PLACES = Pool("two", 2, DAY)


class Rows(AvatarRows, file_rows.FileRows):
    """One person with everything that hangs on an account; each is made when it is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = DirectoryRepository()
        self.sessions = SessionRepository()
        self.keys = ApiKeyRepository()
        self.tokens = OneTimeRepository()
        self.oauth = OAuthRepository()
        self.audit = AuditRepository()
        self.deletions = DeletionRepository()
        self.remains = AccountRemains()
        self.outbox = OutboxRepository()
        self.buckets = DynamoBuckets()
        self.leases = DynamoLeases()
        self.devices = DeviceRepository()
        self.commands = CommandRepository()
        self.letters = DeadLetterRepository()
        self.hours = HourRepository()
        self.telemetry = TelemetryRepository()
        self.leftovers = LeftoverRepository(retention_s=0)
        self.runs = DynamoRunStore()
        self.agents = DynamoAgentStore()
        self.projects = ProjectRepository()
        self.tasks = DynamoTaskStore()
        self.configuration = ConfigurationRepository()
        self.notices = NoticeRepository()
        self.arrivals = ArrivalStore()
        self.inbox = InboxRepository()
        self.subscriptions = SubscriptionRepository()
        self.realtime = RealtimeRepository()

    @cached_property
    def files(self) -> FileRepository:
        return FileRepository()

    @cached_property
    def usage(self) -> UsageRepository:
        return UsageRepository()

    @property
    def taken(self) -> Purge:
        """The purge of somebody who has taken something of a plan."""
        self.usage.extend(limited(self.ada.id))
        return self.purge()

    # Identity

    @property
    def mail(self) -> Mail:
        return Mail(kind=MailKind.PASSWORD_CHANGED, user_id=self.ada.id, created_at=NOW, to=self.ada.email)

    @cached_property
    def pending(self) -> Mail:
        mail = self.mail
        self.outbox.add(mail)
        return mail

    @property
    def place(self) -> LoginPlace:
        return LoginPlace.of(self.ada.email, "203.0.113.7")

    def refresh(self, text: str = "t1") -> RefreshToken:
        return RefreshToken(
            hash=f"{text}-{self.id}",
            user_id=self.ada.id,
            session_id=f"s-{self.id}",
            session_started_at=NOW,
            expires_at=NOW + 30 * DAY,
        )

    @cached_property
    def session(self) -> RefreshToken:
        token = self.refresh()
        assert self.sessions.start_session(token, place=self.place, now=NOW, entry=self.entry)
        return token

    @cached_property
    def shown(self) -> Credential:
        """Of a session of Ada's that goes on."""
        return Credential(user_id=self.ada.id, session_id=self.session.session_id, began_at=NOW)

    @cached_property
    def shown_by_root(self) -> Credential:
        token = replace(self.refresh("r1"), user_id=self.root.id, session_id=f"r-{self.id}")
        assert self.sessions.start_session(token, place=self.place, now=NOW, entry=self.entry)
        return Credential(user_id=self.root.id, session_id=token.session_id, began_at=NOW)

    def api_key(self) -> ApiKey:
        key_id = ApiKeyId(new_id())
        return ApiKey(
            id=key_id,
            user_id=self.ada.id,
            name="ci",
            prefix="karma_abc",
            hash=f"hash-{key_id}",
            scopes=frozenset({"*"}),
            created_at=NOW,
            expires_at=None,
            revoked_at=None,
        )

    @cached_property
    def key(self) -> ApiKey:
        key = self.api_key()
        self.keys.create_api_key(key, request_token=None, entry=self.entry)
        return key

    def one_time(self, purpose: Purpose = Purpose.VERIFY_EMAIL, email: str = "") -> OneTimeToken:
        email = email or self.ada.email
        return one_time.issue(purpose, user_id=self.ada.id, email=email, asked_at=NOW, now=NOW)[1]

    def kept(self, purpose: Purpose = Purpose.VERIFY_EMAIL, email: str = "") -> OneTimeToken:
        token = self.one_time(purpose, email)
        self.tokens.create_token(token, now=NOW)
        return token

    @cached_property
    def flow(self) -> Flow:
        return Flow(
            state_hash=f"state-{self.id}",
            provider=ProviderName.GITHUB,
            browser_hash="b",
            code_verifier="v",
            nonce="n",
            redirect="https://app.example.com/",
            expires_at=LATER,
        )

    @cached_property
    def begun(self) -> Flow:
        self.oauth.create_flow(self.flow, now=NOW)
        return self.flow

    @cached_property
    def profile(self) -> Profile:
        return Profile(provider=ProviderName.GITHUB, subject=self.id, email=self.ada.email, name="Ada")

    @cached_property
    def linked(self) -> list[Link]:
        assert self.oauth.link(self.ada, self.profile, now=NOW, entry=self.entry)
        return self.oauth.links(self.ada.id)

    @cached_property
    def code(self) -> LoginCode:
        return LoginCode(hash=f"code-{self.id}", user_id=self.ada.id, provider=ProviderName.GITHUB, expires_at=LATER)

    @cached_property
    def given(self) -> LoginCode:
        self.oauth.create_login_code(self.code, now=NOW)
        return self.code

    @property
    def leaving(self) -> Leaving:
        found = self.deletions.leaving(self.ada.id)
        assert found is not None
        return found

    @cached_property
    def gone(self) -> UserId:
        self.deletions.begin(self.leaving, entry=self.entry, due_at=NOW)
        return self.ada.id

    # Devices

    def new_device(self, **changes: Any) -> Device:
        device_id = DeviceId(new_id())
        made = Device(
            id=device_id,
            user_id=self.ada.id,
            name="Greenhouse",
            model=DeviceModel.EOS_3A,
            mac="AA:BB:CC:00:11:22",
            serial_number=f"EOS-{device_id}",
            state=DeviceState.PROVISIONING,
            ip=None,
            firmware_version=None,
            capabilities={"a": 1},
            hardware={},
            network={},
            location=None,
            tags=("x",),
            version=1,
            created_at=iso(NOW),
            updated_at=iso(NOW),
        )
        return replace(made, **changes)

    def claim(self, device: Device, *, attempt: str, now: datetime, idempotency: tuple[str, str] | None = None) -> None:
        self.devices.claim(device, reservation=reserved(self.ada.id), attempt=attempt, now=now, idempotency=idempotency)

    def claimed(self, **changes: Any) -> Device:
        device = self.new_device(**changes)
        self.claim(device, attempt="a1", now=NOW)
        return device

    def active(self, **changes: Any) -> Device:
        return self.devices.activate(self.claimed(**changes), attempt="a1", certificate_id="c1", now=NOW)

    @cached_property
    def device(self) -> Device:
        return self.active()

    @cached_property
    def half_made(self) -> Device:
        return self.claimed()

    @cached_property
    def half_deleted(self) -> Device:
        self.devices.begin_delete(self.device, now=NOW)
        return self.device

    @cached_property
    def left(self) -> Gone:
        self.sent  # noqa: B018  a command and a dead letter are left
        self.letters.store(
            self.device.id, refused=[Refused("", "NOT_JSON")], topic="t", payload=b"x" * 5000, received_ms=epoch_ms(NOW)
        )
        self.telemetry.store(self.device.id, self.batch())
        self.devices.finish_delete(self.half_deleted, now=NOW)
        return Gone(self.ada.id, self.device.id)

    @property
    def guard(self) -> Guard:
        found = self.devices.guard(self.device.serial_number, consistent=True)
        assert found is not None
        return found

    def command(self, **changes: Any) -> Command:
        made = Command(
            id=CommandId(new_id()),
            device_id=self.device.id,
            user_id=self.ada.id,
            serial_number=self.device.serial_number,
            command="led.on",
            params={"brightness": 1},
            status=CommandStatus.QUEUED,
            serial=False,
            issued_ms=epoch_ms(NOW),
            expires_ms=epoch_ms(LATER),
        )
        return replace(made, **changes)

    @cached_property
    def sent(self) -> Command:
        command = self.command()
        self.commands.add(command, self.device, now=NOW)
        assert self.commands.move(self.device.id, command.id, CommandStatus.SENT, at=NOW)
        return command

    def batch(self, seq: int = 1, *, at_ms: int = epoch_ms(NOW), digest: str = "d") -> Batch:
        return Batch("b1", seq, at_ms, at_ms, 1, b'[[1,{"temp_c":1.5}]]', digest, {})

    # Files

    @property
    def owner_id(self) -> UserId:
        return self.ada.id

    @property
    def device_id(self) -> DeviceId:
        return self.device.id

    def lose_device(self) -> None:
        self.devices.begin_delete(self.device, now=NOW)

    # Agents

    @property
    def thread_key(self) -> ThreadKey:
        return ThreadKey(self.ada.id, ThreadId("t1"))

    @property
    def thread(self) -> Thread:
        return self.runs.thread(self.thread_key)

    def run(self, run_id: str = "r1") -> Run:
        return Run(
            key=RunKey(self.ada.id, RunId(run_id)),
            thread_id=self.thread_key.thread_id,
            status=RunStatus.RUNNING,
            model="m",
            created_at=NOW,
            agent_id=AgentId("karma"),
            agent_version=1,
        )

    def segment(self, n: int = 1, *, of: Run | None = None, terminal: bool = False) -> Segment:
        return Segment(
            key=(of or self.run()).key,
            n=n,
            writer="w1",
            epoch=1,
            lease_until=LATER,
            events=(b"{}",),
            terminal=terminal,
        )

    @property
    def said(self) -> Message:
        return Message(id=new_id(), role="user", content="hi")

    def history(self, n: int) -> History:
        return History(self.thread_key, n, (self.said,))

    @cached_property
    def running(self) -> Run:
        run = self.run()
        self.runs.start(run, thread=self.thread, segment=self.segment(), messages=(self.said,))
        return run

    @cached_property
    def second(self) -> Run:
        """A run in a thread that has had one."""
        end = RunEnd(status=RunStatus.FINISHED, at=LATER)
        self.runs.finish(self.segment(2, of=self.running, terminal=True), end, thread=self.thread_key)
        return self.run("r2")

    def new_agent(self, **changes: Any) -> Agent:
        name = changes.pop("name", f"agent {self.id}")
        spec = AgentSpec(name=name, model="m", system_prompt="Be brief.", tags=("x", "y"))
        return Agent(id=AgentId(self.id), spec=spec, created_at=NOW, updated_at=NOW, version=1)

    @cached_property
    def agent(self) -> Agent:
        agent = self.new_agent()
        self.agents.create(agent, request_token="t")
        return agent

    # Projects

    def new_project(self) -> tuple[Project, Membership]:
        made = replace(a_project(self.ada.id), id=ProjectId(new_id()))
        return made, membership(made, self.ada.id, ProjectRole.OWNER)

    @cached_property
    def project(self) -> tuple[Project, Membership]:
        project, owner = self.new_project()
        self.projects.create(project, owner, request_token="t")
        return project, owner

    def new_invitation(self) -> Invitation:
        """Ada asks somebody to own her project, too."""
        project, owner = self.project
        return Invitation(
            project_id=project.id,
            user_id=self.stored().id,
            email=None,
            role=ProjectRole.OWNER,
            invited_by=owner.user_id,
            invited_at=NOW,
            expires_at=NOW + INVITATION_TTL,
        )

    @cached_property
    def invitation(self) -> Invitation:
        made = self.new_invitation()
        self.projects.invite(made, actor=self.project[1], known=None, entries=[], mails=[])
        return made

    def joining(self) -> MemberChange:
        """Somebody accepts to own Ada's project."""
        project, owner = self.project
        invitation = self.invitation
        user_id = UserId(invitation.invitee)
        return MemberChange(
            project=project,
            actor=owner,
            before=None,
            after=membership(project, user_id, ProjectRole.OWNER),
            owners=(owner.user_id, user_id),
            at=NOW,
            entries=[self.entry],
            invitation=invitation,
        )

    @cached_property
    def deleted_project(self) -> Project:
        project, owner = self.project
        self.projects.begin_delete(project, actor=owner, at=NOW)
        return project

    # Tasks

    def new_task(self) -> tuple[Task, list[Subtask]]:
        made = replace(a_task(user=self.ada.id, of=2), id=TaskId(new_id()))
        return made, parts(made)

    @cached_property
    def task(self) -> tuple[Task, list[Subtask]]:
        task, subtasks = self.new_task()
        self.tasks.create(task, subtasks, request_token="t")
        return task, subtasks

    @cached_property
    def gone_task(self) -> GoneTask:
        task, _ = self.task
        self.tasks.begin_delete(task, at=NOW)
        return GoneTask(self.ada.id, task.id)

    # Configuration and notices

    @property
    def change(self) -> Change:
        return a_change(1, Component(name=f"tool-{self.id}", type=ComponentType.TOOL))

    @cached_property
    def changed(self) -> Change:
        self.configuration.append(self.change)
        return self.change

    @cached_property
    def notice(self) -> Notice:
        tx = Transaction()
        add_notice(tx, a_notice(1, user=self.ada.id))
        tx.commit()
        return a_notice(1, user=self.ada.id)

    # Billing and realtime

    @property
    def event_id(self) -> str:
        return f"evt_{self.id}"

    @property
    def arrival(self) -> Arrival:
        return Arrival(self.event_id, "invoice.paid", '{"type": "invoice.paid", "data": {}}')

    @cached_property
    def event(self) -> str:
        self.arrivals.store(self.arrival, received_at=NOW, due_at=NOW)
        return self.event_id

    @property
    def subscription(self) -> Any:
        return replace(
            project(stripe_subscription(), user_id=self.ada.id),
            stripe_subscription_id=f"sub_{self.id}",
            stripe_customer_id=f"cus_{self.id}",
        )

    def subscribe(self) -> bool:
        seen = self.subscriptions.row(self.ada.id)
        return self.subscriptions.save(self.ada.id, self.subscription, seen=seen, event_id=self.event, at=NOW)

    @property
    def customers(self) -> CustomerRepository:
        return CustomerRepository()

    @cached_property
    def customer(self) -> CustomerLink:
        assert self.customers.link(f"cus_{self.id}", self.ada.id, seen=None, at=NOW, livemode=True)
        link = self.customers.link_of(f"cus_{self.id}")
        assert link is not None
        return link

    @cached_property
    def unlinked(self) -> str:
        assert self.inbox.mark_unlinked(self.event, f"cus_of_nobody_{self.id}", at=NOW, note="")
        return self.event

    def ignore_payer(self, event: str) -> bool:
        return self.inbox.ignore_payer(event, f"cus_of_nobody_{self.id}", [self.price], asked_at=NOW, at=NOW, note="")

    @property
    def price(self) -> str:
        return f"price_{self.id}"

    @cached_property
    def ignored(self) -> str:
        assert self.ignore_payer(self.event)
        return self.event

    @cached_property
    def ticket(self) -> Ticket:
        return Ticket(hash=f"ticket-{self.id}", user_id=self.ada.id, expires_at=LATER)

    @cached_property
    def admitted(self) -> Ticket:
        self.realtime.put_ticket(self.ticket, now=NOW)
        return self.ticket

    @cached_property
    def new_connection(self) -> Connection:
        return Connection(id=f"c-{self.id}", user_id=self.ada.id, connected_at=NOW)

    @cached_property
    def connection(self) -> Connection:
        assert self.realtime.connect(self.admitted, self.new_connection)
        return self.new_connection

    @cached_property
    def channel(self) -> Channel:
        return Channel(owner=self.ada.id, kind="device", object_id=self.id)

    @cached_property
    def listening(self) -> Channel:
        self.realtime.subscribe(self.connection, self.channel, now=NOW)
        return self.channel

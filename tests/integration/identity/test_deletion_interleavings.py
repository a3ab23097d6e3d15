"""An account is deleted while everything of it goes on: whatever the order, only its tombstone is left.

Actors take turns at every AWS call, in an order that a seed decides (tests/support/interleaving.py). Then the time
passes in which a process may still write, the deletion is finished, and everything is delivered once more.

One file of more than 450 lines: the actors, the world that they share and what must be left of it are one model.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from karma.audit.domain import NOWHERE, Source
from karma.billing.arrival import Arrival
from karma.billing.projector import EventProjector
from karma.billing.purge import BillingPurge, UsagePurge
from karma.billing.repository.arrivals import ArrivalRepository
from karma.billing.repository.customers import CustomerRepository
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.repository.usage import UsageRepository
from karma.conversations.domain import History, Message, ThreadKey
from karma.core import purge
from karma.core.clock import SystemClock, epoch_ms, iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.errors import AppError, NotFound, Unauthenticated
from karma.core.happenings import ItemChange
from karma.core.ids import RunId, ThreadId, UserId, new_id
from karma.core.live import declared
from karma.core.ratelimit import LocalBuckets
from karma.core.streams import StreamRecord
from karma.devices.allowance import HourlyAllowance
from karma.devices.commands import CommandService
from karma.devices.counting import DeviceCounting
from karma.devices.dispatch import Dispatcher
from karma.devices.hearing import DeviceMessage as Publication
from karma.devices.ingest import IngestService
from karma.devices.lookup import DeviceLookup
from karma.devices.ports import Registry
from karma.devices.purge import DevicesPurge
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.hours import HourRepository
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.service import Created, DeviceService
from karma.files.removal import FilesOfDevices
from karma.files.repository.files import FileRepository
from karma.files.service import FileService
from karma.identity.accounts.correspondence import Correspondence
from karma.identity.accounts.deletion import SETTLES_AFTER, AccountDeletion, Cascade
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.accounts.repository.purge import AccountPurge
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.api_keys.service import ApiKeyService, NewApiKey
from karma.identity.domain import Caller, Role
from karma.identity.limits import UnprovenMails
from karma.identity.sessions.authentication import Authenticator
from karma.identity.sessions.logins import LoginThrottle
from karma.identity.sessions.repository import SessionRepository
from karma.identity.sessions.service import SessionService
from karma.integrations.iot import IotRegistry
from karma.integrations.s3 import S3Attachments, S3Files
from karma.mail.repository import OutboxRepository
from karma.mail.service import MailWorker, OutboxRelay
from karma.projects.domain import ProjectRole
from karma.projects.members import MemberService
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.repository import RealtimeRepository
from karma.realtime.service import ConnectionService, TicketService
from karma.runs.domain import OwnershipLost, Run, RunEnd, RunKey, RunStatus, Segment
from karma.runs.purge import RunsPurge
from karma.runs.repository import RunRepository
from karma.runs.watchdog import Inspector
from tests.fakes.billing import MemoryQueue
from tests.fakes.devices import FakePublisher, FakeRegistry, FakeWakeUps
from tests.fakes.identity import RING, CountingPasswords
from tests.fakes.mail import MemoryQueue as MailQueue
from tests.fakes.mail import MemorySender
from tests.fakes.payments import MemoryStripe
from tests.fakes.runs import RequestedExecutions
from tests.support.accounts import open_account
from tests.support.devices import new_device
from tests.support.interleaving import play, watch
from tests.support.plans import allowance
from tests.support.projects import invitations
from tests.support.requests import key
from tests.support.stack import Stack
from tests.unit.billing.test_domain import stripe_subscription

INTERLEAVINGS = int(os.environ.get("INTERLEAVINGS", "20"))
"""Seeds that are played, of the run's number (tests/support/seeds.py)."""
TABLES = 2
"""At which accounts are played at the same time, each with actors and a process of its own."""
WHOLE_EVERY = 20
CLOCK = SystemClock()
HOME = Source(address="192.0.2.7")
CLEAN = (AppError, ConditionFailed, OwnershipLost)
"""Errors with which an actor may end that finds no account."""


@dataclass
class Queue(MemoryQueue):
    """Takes messages with their delay; what is in it is delivered by the test."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        del delay_s
        super().send(body)


@dataclass
class World:
    """State that accounts share: tables, and the services of one process."""

    stack: Stack
    csr: str
    whole: bool
    """With the engine's IoT and bucket; else with a stand-in for IoT and without files, which is quicker."""
    queue: Queue = field(default_factory=Queue)
    passwords: CountingPasswords = field(default_factory=CountingPasswords)
    stripe: MemoryStripe = field(default_factory=MemoryStripe)

    def __post_init__(self) -> None:
        self.registry: Registry = FakeRegistry()
        if self.whole:
            self.registry = IotRegistry(
                policy_name="karma-device",
                mqtt_host="mqtt.example.com",
                ca_pem="pem",
                data_endpoint_url=self.stack.engine.endpoint_url,
            )
        self.rows = DeviceRepository()
        self.devices = DeviceService(self.rows, self.registry, CLOCK)
        self.command_rows = CommandRepository()
        self.commands = CommandService(self.rows, self.command_rows, FakePublisher(), FakeWakeUps(CLOCK), CLOCK)
        self.telemetry = TelemetryRepository()
        files = FileRepository()
        self.bucket = S3Files(self.stack.bucket)
        self.files = FileService(files, self.bucket, DeviceLookup(self.rows), CLOCK)
        self.runs = RunRepository()
        self.attachments = S3Attachments(self.stack.bucket)
        self.inbox = InboxRepository()
        self.arrivals = ArrivalRepository()
        self.subscriptions = SubscriptionRepository()
        self.customers = CustomerRepository()
        self.projector = EventProjector(
            inbox=self.inbox,
            subscriptions=self.subscriptions,
            customers=self.customers,
            payments=self.stripe,
            clock=CLOCK,
        )
        self._accounts()
        self._projects()
        self._deletion()

    def _accounts(self) -> None:
        self.letters = MailQueue()
        self.courier = MailWorker(
            outbox=OutboxRepository(),
            recipients=Correspondence(people=UserRepository(), tokens=OneTimeRepository()),
            sender=MemorySender(),
            unproven=UnprovenMails(LocalBuckets()),
            clock=CLOCK,
            public_url="https://app.example.com",
        )
        self.api_keys = ApiKeyService(
            api_keys=ApiKeyRepository(),
            owners=UserRepository(),
            passwords=self.passwords,
            buckets=LocalBuckets(),
            outbox_relay=OutboxRelay(outbox=OutboxRepository(), queue=self.letters, clock=CLOCK),
            clock=CLOCK,
            on_change=lambda _: None,
        )
        self.sessions = SessionService(
            accounts=UserRepository(),
            sessions=SessionRepository(),
            throttle=cast("LoginThrottle", None),  # nobody logs in with a password here
            passwords=self.passwords,
            dummy_hash="now:",
            key_ring=lambda: RING,
            clock=CLOCK,
            on_change=lambda _: None,
        )

    def _projects(self) -> None:
        projects = self.projects = ProjectRepository()
        self.members = MemberService(projects, UserRepository(), CLOCK)
        self.host = open_account()
        made = ProjectService(projects, CLOCK).create(self.host, NewProject(name="Greenhouse"))
        self.project_id = made.project.id
        self.tickets = TicketService(store=RealtimeRepository(), clock=CLOCK, url="wss://live.example.com")
        self.connections = ConnectionService(
            store=RealtimeRepository(), channels=ChannelRepository(), sources=declared(), clock=CLOCK
        )

    def _deletion(self) -> None:
        files = FileRepository()
        self.deletion = AccountDeletion(
            deletions=DeletionRepository(),
            passwords=self.passwords,
            buckets=LocalBuckets(),
            queue=self.queue,
            clock=CLOCK,
            on_change=lambda _: None,
        )
        # As functions/background/deletion.py, but for Stripe, and for samples of today alone.
        self.cascade = Cascade(
            [
                RunsPurge(store=self.runs, attachments=self.attachments, clock=CLOCK),
                BillingPurge(
                    subscriptions=self.subscriptions, customers=self.customers, payments=self.stripe, clock=CLOCK
                ),
                DevicesPurge(
                    devices=self.rows,
                    deleted_devices=DeletedDeviceRepository(retention_s=0),
                    registry=self.registry,
                    clock=CLOCK,
                    others=(FilesOfDevices(files, self.bucket),) if self.whole else (),
                ),
                *purge.offered(),
                UsagePurge(UsageRepository(), CLOCK),
                AccountPurge(),
            ],
            deletions=DeletionRepository(),
            queue=self.queue,
            clock=CLOCK,
        )

    def ingest(self) -> IngestService:
        """Return a process of ingest with empty caches."""
        return IngestService(
            devices=self.rows,
            telemetry=self.telemetry,
            dead_letters=DeadLetterRepository(),
            allowance=HourlyAllowance(HourRepository()),
            dispatcher=Dispatcher(self.command_rows, FakePublisher(), FakeWakeUps(CLOCK), CLOCK),
            clock=CLOCK,
        )

    def authenticator(self) -> Authenticator:
        return Authenticator(
            users=UserRepository(),
            api_keys=ApiKeyRepository(),
            key_ring=lambda: RING,
            newer_key_ring=lambda: RING,
            clock=CLOCK,
        )


class Account:
    """One person, and some of what may happen to them: a seed decides which."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        order = random.Random(seed)
        everything = [self.publish, self.talk, self.pay, self.automate, self.stay, self.count_devices, self.join]
        self.beside = order.sample(everything, k=order.randint(1, 3))
        self.user_id = open_account(password_hash="now:secret words")
        self.caller = Caller(
            user_id=self.user_id,
            role=Role.USER,
            method="jwt",
            scopes=frozenset(),
            email_verified=True,
            name="Ada",
            avatar=None,
        )
        self.run = RunKey(self.user_id, RunId("r1"))
        self.thread = ThreadKey(self.user_id, ThreadId("t1"))
        number = self.user_id.replace("-", "")
        self.customer_id, self.subscription_id = f"cus_{number}", f"sub_{number}"
        world.stripe.subscriptions[self.subscription_id] = stripe_subscription(
            id=self.subscription_id, customer_id=self.customer_id
        )
        assert world.customers.link(self.customer_id, self.user_id, seen=None, at=CLOCK.now(), livemode=False)
        if {self.publish, self.automate, self.count_devices} & {*self.beside}:
            self.device: Created = world.devices.create(
                self.user_id, new_device(), allowance=allowance(self.user_id), csr=world.csr
            )
        self.key = ""
        if self.automate in self.beside:
            self.key = self.new_key("once").secret
        if self.stay in self.beside:
            user = UserRepository().read_user(self.user_id)
            assert user is not None
            self.user, now = user, CLOCK.now()
            self.refresh_token = world.sessions.start(user, method="password", source=HOME, now=now).refresh_token

    def new_key(self, name: str) -> NewApiKey:
        return self.world.api_keys.create_api_key(
            self.caller,
            current_password="secret words",
            name="ci",
            scopes=frozenset({"*"}),
            expires_at=None,
            idempotency_key=key(name),
            source=HOME,
        )

    # What happens, each as the function does it.

    def delete(self) -> None:
        """Delete the account by the route, and deliver the first message of its queue."""
        self.world.deletion.request(self.caller, current_password="secret words", source=NOWHERE)
        self.world.cascade.advance(self.user_id)

    def publish(self) -> None:
        """Publish the device's telemetry, and a message that cannot be read."""
        ingest = self.world.ingest()
        for kind, seq in (("telemetry", 1), ("broken", 2)):
            assert ingest.take([self.publication(kind, seq)]) == []

    def publication(self, kind: str, seq: int) -> Publication:
        now = epoch_ms(datetime.now(UTC))
        bodies = {
            "telemetry": {"boot": "b1", "seq": seq, "samples": [{"ts": now, "m": {"temp_c": 41.0}}]},
            "broken": {"neither": "nor"},
        }
        serial = self.device.current.device.serial_number
        topic = f"dt/karma/{serial}/telemetry"
        return Publication(new_id(), topic, self.device.certificate.id, json.dumps(bodies[kind]).encode(), now)

    def talk(self) -> None:
        """Write a run as the engine does: start, text, a turn, the end."""
        store = self.world.runs
        said = Message(id="u1", role="user", content="hi")
        answer = Message(id="a1", role="assistant", content="hello")
        run = Run(
            key=self.run,
            thread_id=self.thread.thread_id,
            status=RunStatus.RUNNING,
            model="m",
            created_at=CLOCK.now(),
        )
        store.start(run, thread=store.thread(self.thread), segment=self.segment(1), messages=(said,))
        store.append(self.segment(2))
        store.append(self.segment(3), history=History(self.thread, 1, (answer,)))
        store.append(self.segment(4))
        end = RunEnd(status=RunStatus.FINISHED, at=CLOCK.now(), turns=1)
        store.finish(self.segment(5, terminal=True), end, thread=self.thread)

    def segment(self, n: int, *, terminal: bool = False) -> Segment:
        until = CLOCK.now() + timedelta(seconds=30)
        return Segment(
            key=self.run, n=n, writer="w", epoch=1, lease_until=until, events=(b'{"type":"X"}',), terminal=terminal
        )

    def pay(self) -> None:
        """Deliver Stripe's events, and let the worker handle them."""
        for name, kind, body in (
            ("sold", "customer.subscription.created", {"id": self.subscription_id, "customer": self.customer_id}),
            ("paid", "customer.updated", {"id": self.customer_id}),
        ):
            event_id = f"evt_{name}_{self.customer_id}"
            text = json.dumps({"id": event_id, "type": kind, "data": {"object": body}})
            now = CLOCK.now()
            self.world.arrivals.store(Arrival(event_id, kind, text), received_at=now, due_at=now)
            self.world.projector.handle(event_id)

    def automate(self) -> None:
        """Act as a program with the API key: a device, a directory, a command, the WebSocket, another key."""
        world, clean = self.world, suppress(*CLEAN)
        caller = world.authenticator().authenticate(None, self.key)
        device_id = self.device.current.device.id
        with clean:
            world.devices.create(
                self.user_id,
                new_device(),
                allowance=allowance(self.user_id),
                csr=world.csr,
                idempotency_key=key("once"),
            )
        with clean:
            if world.whole:
                world.files.make_directory(self.user_id, device_id, path="/", name="logs")
        with clean:
            world.commands.send(self.user_id, device_id, "move", {"x": 1}, idempotency_key=key("once"))
        with clean:
            ticket = world.tickets.issue(caller).ticket
            world.connections.connect(f"conn-{self.user_id}", ticket)
            world.connections.subscribe(f"conn-{self.user_id}", f"user:{self.user_id}")
        with clean:
            self.new_key("twice")

    def stay(self) -> None:
        """Continue a session, and begin another one."""
        again = self.world.sessions.refresh(self.refresh_token, source=HOME).refresh_token
        with suppress(*CLEAN):
            self.world.sessions.start(self.user, method="password", source=HOME, now=CLOCK.now())
        self.world.sessions.refresh(again, source=HOME)

    def count_devices(self) -> None:
        """Deliver the router's records of the device's row."""
        key = Key(f"USER#{self.user_id}", f"DEVICE#{self.device.current.device.id}")
        active = {"type": {"S": "device"}, "state": {"S": "active"}}
        counting = DeviceCounting()
        counting.take([StreamRecord(key, ItemChange(None, active), "1" * 21)])
        counting.take([StreamRecord(key, ItemChange(active, None), "2" * 21)])

    def join(self) -> None:
        """Let an owner of a project invite the account, which joins it, and give it another role."""
        world, clean = self.world, suppress(*CLEAN)
        with clean:
            invited = invitations(world.projects, CLOCK, queue=world.letters)
            invited.invite(world.host, world.project_id, self.user_id, ProjectRole.MEMBER, source=HOME)
        with clean:
            invited.accept(self.user_id, world.project_id, source=HOME)
        with clean:
            world.members.change_role(world.host, world.project_id, self.user_id, ProjectRole.ADMIN, source=HOME)

    def actors(self) -> dict[str, Callable[[], None]]:
        return {"delete": self.delete, **{act.__name__: cleanly(act) for act in self.beside}}

    def settle(self) -> None:
        """Let the time pass in which anything of that moment may still write; then the deletion ends."""
        before = datetime.now(UTC) - SETTLES_AFTER - timedelta(minutes=1)
        self.world.stack.aws("dynamodb").update_item(
            TableName=self.world.stack.tables["identity"],
            Key={"pk": {"S": f"USER#{self.user_id}"}, "sk": {"S": "TOMBSTONE"}},
            UpdateExpression="SET created_at = :before",
            ExpressionAttributeValues={":before": {"S": iso(before)}},
        )
        while self.world.letters.bodies:
            self.world.courier.deliver(self.world.letters.bodies.pop())
        for _ in range(4):
            if self.world.cascade.advance(self.user_id):
                registry = self.world.registry
                assert not isinstance(registry, FakeRegistry) or registry == FakeRegistry()
                return
        pytest.fail(f"the deletion of {self.user_id} does not end")

    def deliver_again(self) -> None:
        """Deliver every message once more that is delivered at least once."""
        for act in self.beside:
            cleanly(act)()
        assert Inspector(self.world.runs, RequestedExecutions(), CLOCK).look(self.run) is None
        if self.key:
            with pytest.raises(Unauthenticated):
                self.world.authenticator().authenticate(None, self.key)
        with pytest.raises(NotFound):
            self.world.tickets.issue(self.caller)
        while self.world.letters.bodies:
            self.world.courier.deliver(self.world.letters.bodies.pop())
        assert self.world.cascade.advance(self.user_id)


def cleanly(act: Callable[[], None]) -> Callable[[], None]:
    def guarded() -> None:
        with suppress(*CLEAN):
            act()

    return guarded


@pytest.fixture
def make_worlds(stack: Stack) -> Callable[[], dict[bool, World]]:
    document = json.dumps({"Version": "2012-10-17", "Statement": []})
    stack.aws("iot").create_policy(policyName="karma-device", policyDocument=document)
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    return lambda: {whole: World(stack, csr, whole) for whole in (True, False)}


def play_all(worlds: dict[bool, World], seeds: range) -> dict[UserId, tuple[int, tuple[str, ...]]]:
    """Play one interleaving a seed; return the seed and the order of the calls by account."""
    played = {}
    for seed in seeds:
        account = Account(worlds[seed % WHOLE_EVERY == 0], seed)
        order = tuple(play(seed, account.actors()))
        account.settle()
        account.deliver_again()
        played[account.user_id] = (seed, order)
    return played


@pytest.mark.req("R-K-22")
def test_in_whatever_order_only_tombstones_are_left(stack: Stack, request: pytest.FixtureRequest, seed: int) -> None:
    watch()
    with ThreadPoolExecutor(TABLES) as tables:
        make_worlds = request.getfixturevalue("make_worlds")
        halves = [range(seed + half, seed + INTERLEAVINGS, TABLES) for half in range(TABLES)]
        played = [*tables.map(lambda seeds: play_all(make_worlds(), seeds), halves)]
    seeds = {user_id: seed for accounts in played for user_id, (seed, _) in accounts.items()}
    assert len({order for accounts in played for _, order in accounts.values()}) > 0.9 * INTERLEAVINGS
    left = [
        (name, item)
        for name, table in stack.tables.items()
        for page in stack.aws("dynamodb").get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        for item in page["Items"]
    ]
    tombstones = {item["pk"]["S"] for _, item in left if item["type"] == {"S": "account_tombstone"}}
    assert tombstones == {f"USER#{user_id}" for user_id in seeds}
    hosts = {item["id"]["S"] for _, item in left if item["type"] == {"S": "user"}}
    assert not hosts & seeds.keys()
    found = [
        f"seed {next((seed for user_id, seed in seeds.items() if user_id in str(item)), '?')}, table {name}: {item}"
        for name, item in left
        if not is_spared(item) and not is_a_host_s(item, hosts)
    ]
    assert not found, "\n".join(found)
    assert stack.aws("iot").list_things()["things"] == []
    assert stack.aws("iot").list_certificates()["certificates"] == []
    assert "Versions" not in stack.aws("s3").list_object_versions(Bucket=stack.bucket)


def is_a_host_s(item: dict[str, Any], hosts: set[str]) -> bool:
    """Tell whether an item is of an account that is not deleted: itself, its audit log, a project without former
    members."""
    pk, sk = item["pk"]["S"], item["sk"]["S"]
    owner = pk.removeprefix("USER#") if pk.startswith("USER#") else item.get("user_id", {}).get("S")
    return owner in hosts or (item["type"] == {"S": "project"} and sk == "PROJECT")


def is_spared(item: dict[str, Any]) -> bool:
    """Tell whether an item is a tombstone of an account or customer, or expires by itself and names nobody's data."""
    kind = item["type"]["S"]
    by_itself = kind in {"account_tombstone", "known_network", "left_address"}
    return by_itself or (kind == "customer_link" and "user_id" not in item)

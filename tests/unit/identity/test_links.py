"""Events that end the links of mails: the table of docs/adr/0011-accounts.md, cell by cell, and in any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.audit.domain import NOWHERE
from karma.core.errors import Gone
from karma.core.ratelimit import LocalBuckets
from karma.identity.accounts.administration import AdministrationService
from karma.identity.domain import ProfileChange, Role, User
from karma.identity.sessions.logins import LoginThrottle
from karma.identity.sessions.service import SessionService
from tests.fakes.accounts import PASSWORD, AccountWorld, caller_of, token_in
from tests.fakes.identity import RING

pytestmark = pytest.mark.fault("F-21d")

ADR = Path(__file__).parents[3] / "docs/adr/0011-accounts.md"
OWN, NEW, OTHER = "ada@example.com", "new@example.com", "elsewhere@example.com"
ANOTHER_PASSWORD = "another horse"


class World(AccountWorld):
    """An account whose address is not proven, so that every kind of link can be had."""

    def __init__(self) -> None:
        super().__init__()
        self.administration = AdministrationService(
            accounts=self.identities, registration=self.accounts, clock=self.clock, on_change=self.changed.append
        )
        self.sessions = SessionService(
            accounts=self.identities,
            sessions=self.identities,
            throttle=LoginThrottle(buckets=LocalBuckets(), networks=self.identities, clock=self.clock),
            passwords=self.passwords,
            dummy_hash="now:nobody's",
            key_ring=lambda: RING,
            clock=self.clock,
            on_change=self.changed.append,
        )
        self.id = self.register(OWN).id
        self.password = PASSWORD
        admin = self.accounts.register(
            email="root@example.com", password=PASSWORD, name="Root", role=Role.ADMIN, email_verified=True
        )
        self.root = caller_of(admin)

    @property
    def user(self) -> User:
        return self.identities.users[self.id]

    def ask(self, kind: str, to: str = NEW) -> str:
        """Ask for a link; return its token."""
        match kind:
            case "verifies":
                self.accounts.resend_verification(caller_of(self.user))
            case "resets":
                self.password_changes.forgot(email=self.user.email)
            case _:
                self.name(to)
        return self.token_for(to if kind == "moves" else self.user.email)

    def name(self, address: str) -> None:
        change = ProfileChange(email=address, current_password=self.password)
        self.accounts.change_profile(caller_of(self.user), change, source=NOWHERE)

    def follow(self, kind: str, token: str) -> None:
        if kind == "resets":
            self.password_changes.reset(token=token, password=self.password, source=NOWHERE)
        else:
            self.accounts.verify_email(token=token, source=NOWHERE)

    def move(self, *addresses: str) -> None:
        for address in addresses:
            self.follow("moves", self.ask("moves", address))

    def change_password(self) -> None:
        before, self.password = self.password, ANOTHER_PASSWORD
        self.password_changes.change(
            caller_of(self.user), current_password=before, password=self.password, source=NOWHERE
        )

    def disable(self, *states: bool) -> None:
        for disabled in states:
            self.administration.change_user(
                self.root, self.id, role=None, disabled=disabled, version=None, source=NOWHERE
            )

    def leave(self) -> None:
        del self.identities.users[self.id]

    def use(self, kind: str, token: str) -> bool:
        """Follow a link; tell whether it did anything. One that is over changes nothing."""
        before = self.identities.users.get(self.id)
        try:
            self.follow(kind, token)
        except Gone:
            assert self.identities.users.get(self.id) == before
            return False
        return True


EVENTS: dict[str, Callable[[World, str, str], object]] = {
    "nothing": lambda world, kind, token: None,
    "the name is changed": lambda world, kind, token: world.accounts.change_profile(
        caller_of(world.user), ProfileChange(name="Ada Lovelace"), source=NOWHERE
    ),
    "the same link is asked for again": lambda world, kind, token: world.ask(kind),
    "the link was used": lambda world, kind, token: world.follow(kind, token),
    "another link like it was used": lambda world, kind, token: world.follow(kind, world.ask(kind)),
    "its time has passed": lambda world, kind, token: world.clock.pass_(hours=1 if kind == "resets" else 48),
    "a move to another address is asked for": lambda world, kind, token: world.name(OTHER),
    "the own address is named again": lambda world, kind, token: world.name(OWN.upper()),
    "the account has moved": lambda world, kind, token: world.move(OTHER),
    "the account has moved and came back": lambda world, kind, token: world.move(OTHER, OWN),
    "the password is reset": lambda world, kind, token: world.follow("resets", world.ask("resets")),
    "the password is changed": lambda world, kind, token: world.change_password(),
    "all sessions are ended": lambda world, kind, token: world.sessions.log_out_everywhere(
        caller_of(world.user), source=NOWHERE
    ),
    "the account is disabled": lambda world, kind, token: world.disable(True),
    "the account was disabled and is enabled": lambda world, kind, token: world.disable(True, False),
    "the account is deleted": lambda world, kind, token: world.leave(),
}


def rows() -> dict[str, list[str]]:
    """Read the table: what happens, and what becomes of each link."""
    lines = [line.strip("| ") for line in ADR.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    begins = next(i for i, line in enumerate(lines) if line.startswith("what happens meanwhile"))
    found: dict[str, list[str]] = {}
    for line in lines[begins:]:
        name, *cells = (cell.strip() for cell in line.split("|"))
        if len(cells) != 3 or (found and "good" not in cells and "over" not in cells and "---" not in cells):
            break
        found[name] = cells
    return found


TABLE = rows()
KINDS = TABLE.pop("what happens meanwhile")
TABLE.pop("---")


def test_the_table_names_each_event_that_is_tried() -> None:
    assert list(TABLE) == list(EVENTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", EVENTS)
def test_a_link_works_after_an_event_only_if_the_table_says_so(event: str, kind: str) -> None:
    world = World()
    token = world.ask(kind)
    world.clock.pass_(seconds=1)
    EVENTS[event](world, kind, token)
    world.clock.pass_(seconds=1)
    assert world.use(kind, token) is (TABLE[event][KINDS.index(kind)] == "good")


@pytest.mark.parametrize(
    ("address", "event"),
    [(OWN, lambda world: None), (NEW, lambda world: world.name(OTHER)), (NEW, lambda world: world.name(OWN))],
)
@pytest.mark.parametrize("disabled", [True, False])
def test_a_link_that_would_do_nothing_is_not_sent(address: str, event: Callable[[World], None], disabled: bool) -> None:
    """A mail that waits is looked at again when it is sent."""
    world = World()
    world.deliver()
    if address == OWN:
        world.accounts.resend_verification(caller_of(world.user))
    else:
        world.name(address)
    event(world)
    if disabled:
        world.disable(True)
    links = [to for to, letter in world.deliver() if "#token=" in letter.text and to == address]
    assert links == ([OWN] if address == OWN and not disabled else [])


@dataclass(frozen=True)
class Link:
    to: str
    asked_at: datetime
    token: str


ADDRESSES = [OWN, NEW, OTHER]
WISHES = st.one_of(
    st.tuples(st.just("name"), st.integers(0, 2)),
    st.tuples(st.just("follow"), st.integers(0, 9)),
    st.tuples(st.sampled_from(["new password", "disable", "enable"]), st.just(0)),
)


class Model:
    """Model of an owner's expectation: the account has the address that they named last, and no other."""

    def __init__(self) -> None:
        self.world = World()
        self.world.deliver()
        self.at, self.awaited = OWN, ""
        self.last_end = self.world.clock.now()
        self.disabled = False
        self.links: list[Link] = []
        self.used: set[str] = set()

    def act(self, step: str, number: int) -> None:
        self.world.clock.pass_(minutes=21)
        match step:
            case "name" if not self.disabled:
                self._name(ADDRESSES[number])
            case "follow" if self.links:
                self._follow(self.links[number % len(self.links)])
            case "new password":
                self.world.change_password()
                self.last_end = self.world.clock.now()
            case "disable":
                self.world.disable(True)
                self.disabled = True
            case "enable":
                self.world.disable(False)
                self.last_end = self.world.clock.now() if self.disabled else self.last_end
                self.disabled = False

    def _name(self, address: str) -> None:
        self.world.name(address)
        self.awaited = "" if address == self.at else address
        for to, letter in self.world.deliver():
            if "#token=" in letter.text:
                self.links.append(Link(to, self.world.clock.now(), token_in(letter)))

    def _follow(self, link: Link) -> None:
        good = link.to == self.awaited and link.asked_at >= self.last_end and link.token not in self.used
        assert self.world.use("moves", link.token) is (good and not self.disabled)
        if good and not self.disabled:
            self.at, self.awaited = link.to, ""
            self.used.add(link.token)
        assert self.world.user.email == self.at


@given(steps=st.lists(WISHES, max_size=14))
def test_an_account_goes_where_its_owner_said_last(steps: list[tuple[str, int]]) -> None:
    model = Model()
    for step, number in steps:
        model.act(step, number)

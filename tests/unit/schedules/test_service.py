from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from karma.billing.plans import Plan, PlanName, plan_at
from karma.core.errors import Forbidden, Gone, NotFound, QuotaExceeded, StaleVersion, ValidationFailed
from karma.core.ids import ApiKeyId, DeviceId, UserId, new_id
from karma.identity.domain import Caller, Credential, Role
from karma.identity.transactional import AccountGone
from karma.schedules.answers import schedule_details
from karma.schedules.domain import (
    MAX_SCHEDULES,
    Author,
    CatchUp,
    Census,
    Overlap,
    Schedule,
    ScheduleStatus,
    TooManySchedules,
)
from karma.schedules.schemas import ChangeScheduleBody
from karma.schedules.service import NewSchedule, ScheduleService
from karma.schedules.timing import ScheduleNeverFires, Timing
from tests.contract.stores.test_schedules import fired
from tests.fakes.identity import MovableClock
from tests.fakes.runs import caller
from tests.fakes.schedules import MemorySchedules
from tests.support.requests import key

ADA = caller()
USER = ADA.user_id
HOUR = timedelta(hours=1)
PLANS: dict[UserId, PlanName] = {}


class Interrupted(MemorySchedules):
    """Somebody else does something right before a replacement, once."""

    meanwhile: Callable[[], object] | None = None

    def replace(self, old: Schedule, new: Schedule, *, seen: Census | None = None) -> None:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()
        super().replace(old, new, seen=seen)


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


def agent_id(ref: str) -> str:
    if ref == "nobody":
        raise NotFound("no such agent")
    return f"id of {ref}"


def device_id(user_id: UserId, ref: str, _: str) -> DeviceId:
    if ref == "nobody's":
        raise NotFound(f"Device {ref} not found")
    return DeviceId(f"{ref} of {user_id}")


def plan_of(user_id: UserId) -> Plan:
    return plan_at(PLANS.get(user_id, PlanName.ENTERPRISE), MovableClock().now())


def require_receiver(user_id: UserId, url: str) -> None:
    if "private" in url:
        raise ValidationFailed.of("run.webhook", f"is none of {user_id}")


@pytest.fixture
def schedules(store: Interrupted, clock: MovableClock) -> ScheduleService:
    return ScheduleService(
        store,
        clock,
        agent_id_of=agent_id,
        device_id_of=device_id,
        require_receiver=require_receiver,
        plan_of=plan_of,
    )


def new(name: str = "first", **more: Any) -> NewSchedule:
    given: dict[str, Any] = {
        "timing": Timing(cron="0 * * * *"),
        "run": {"message": "Go"},
        "overlap": Overlap.SKIP,
        "catch_up": CatchUp.LATEST,
        "catch_up_window_s": 3600,
        "enabled": True,
    }
    return NewSchedule(name=name, **{**given, **more})


def with_key(*scopes: str) -> Caller:
    credential = Credential(user_id=USER, api_key_id=ApiKeyId("k1"), began_at=MovableClock().now())
    return replace(ADA, method="api_key", scopes=frozenset(scopes), credential=credential)


def test_a_change_is_repeated_on_a_newer_version_unless_one_was_named(
    schedules: ScheduleService, store: Interrupted
) -> None:
    made = schedules.create(ADA, new())
    store.meanwhile = lambda: schedules.change(ADA, made.id, {"name": "theirs"})
    with pytest.raises(StaleVersion):
        schedules.change(ADA, made.id, {"overlap": Overlap.ALLOW}, version=1)
    store.meanwhile = lambda: schedules.change(ADA, made.id, {"name": "theirs again"})
    mine = schedules.change(ADA, made.id, {"overlap": Overlap.ALLOW})
    assert (mine.name, mine.overlap, mine.version) == ("theirs again", Overlap.ALLOW, 4)
    assert schedules.change(ADA, made.id, {"overlap": Overlap.ALLOW}) == mine
    with pytest.raises(StaleVersion):
        schedules.delete(USER, made.id, version=3)


def test_a_fire_that_comes_between_is_kept(schedules: ScheduleService, store: Interrupted) -> None:
    made = schedules.create(ADA, new())
    store.meanwhile = lambda: store.settle(fired(made), notice=None)
    changed = schedules.change(ADA, made.id, {"name": "mine"}, version=1)
    assert (changed.counts.started, changed.version) == (1, 2)
    assert changed.next_fire_at == fired(made).next_fire_at


def test_one_is_made_for_a_request_also_when_its_moment_has_passed(
    schedules: ScheduleService, clock: MovableClock
) -> None:
    wanted = new(timing=Timing(at=clock.now() + HOUR))
    made = schedules.create(ADA, wanted, idempotency_key=key("t"))
    clock.pass_(hours=2)
    assert schedules.create(ADA, wanted, idempotency_key=key("t")) == made
    with pytest.raises(ScheduleNeverFires):
        schedules.create(ADA, wanted)
    schedules.delete(USER, made.id)
    with pytest.raises(Gone):
        schedules.create(ADA, wanted, idempotency_key=key("t"))


def test_none_is_made_for_a_deleted_account(schedules: ScheduleService, store: Interrupted) -> None:
    store.deleted_accounts.add(USER)
    with pytest.raises(AccountGone):
        schedules.create(ADA, new())


def test_an_account_has_so_many(schedules: ScheduleService) -> None:
    for _ in range(MAX_SCHEDULES):
        schedules.create(ADA, new())
    with pytest.raises(TooManySchedules):
        schedules.create(ADA, new(), idempotency_key=key("t"))


def test_the_address_of_its_runs_is_judged_whenever_it_is_written(schedules: ScheduleService) -> None:
    run = {"message": "Go", "webhook": "https://app.example.com/done"}
    made = schedules.create(ADA, new(run=run))
    assert made.run == run
    wrong = {**run, "webhook": "https://private.example"}
    with pytest.raises(ValidationFailed):
        schedules.create(ADA, new("second", run=wrong))
    with pytest.raises(ValidationFailed):
        schedules.change(ADA, made.id, {"run": wrong})
    assert schedules.get(USER, made.id).run == run


def test_the_address_of_its_runs_is_shown_without_what_lets_others_in_and_is_kept_when_sent_back(
    schedules: ScheduleService,
) -> None:
    whole = "https://app.example.com/done?token=s3cret"
    made = schedules.create(ADA, new(run={"message": "Go", "webhook": whole}))
    run = schedule_details(made)["run"]
    assert run == {"message": "Go", "webhook": "https://app.example.com/done"}
    changed = schedules.change(ADA, made.id, {"run": {**run, "message": "Go on"}})
    assert changed.run == {"message": "Go on", "webhook": whole}
    other = "https://app.example.com/other"
    assert schedules.change(ADA, made.id, {"run": {**run, "webhook": other}}).run == {"message": "Go", "webhook": other}


class TestThePlan:
    @pytest.fixture(autouse=True)
    def free(self) -> Iterator[None]:
        PLANS[USER] = PlanName.FREE
        yield
        PLANS.clear()

    def refused(self, act: Callable[[], object]) -> tuple[object, ...]:
        with pytest.raises(QuotaExceeded) as refused:
            act()
        details: Any = refused.value.details
        return details["limit"], details["plan"], details["allowed"], details["requested"]

    def test_bounds_how_many_are_active(self, schedules: ScheduleService) -> None:
        made = [schedules.create(ADA, new(f"n{n}")) for n in range(5)]
        paused = schedules.create(ADA, new("paused", enabled=False))
        full = ("schedules", "free", 5, 1)
        assert self.refused(lambda: schedules.create(ADA, new("sixth"))) == full
        assert self.refused(lambda: schedules.change(ADA, paused.id, {"enabled": True})) == full
        schedules.change(ADA, made[0].id, {"name": "renamed"})
        schedules.change(ADA, made[0].id, {"cron": "30 * * * *"})
        schedules.change(ADA, made[0].id, {"enabled": False})
        assert schedules.change(ADA, paused.id, {"enabled": True}).status is ScheduleStatus.ACTIVE

    def test_bounds_how_often_one_fires(self, schedules: ScheduleService) -> None:
        hourly = schedules.create(ADA, new())
        for cron, gap in (("* * * * *", 60), ("0,30 9 1 1 *", 1_800)):
            often = new("often", timing=Timing(cron=cron))
            found = self.refused(lambda often=often: schedules.create(ADA, often))  # type: ignore[misc]
            assert found == ("schedule_interval_s", "free", 3_600, gap)
        assert self.refused(lambda: schedules.change(ADA, hourly.id, {"cron": "*/5 * * * *"}))[3] == 300
        assert schedules.create(ADA, new("off", timing=Timing(cron="* * * * *"), enabled=False)).next_fire_at is None
        schedules.create(ADA, new("clocks", timing=Timing(cron="0 * * * *", time_zone="Australia/Lord_Howe")))

    def test_holds_for_two_that_come_at_once(self, schedules: ScheduleService, store: Interrupted) -> None:
        for n in range(4):
            schedules.create(ADA, new(f"n{n}"))
        paused = schedules.create(ADA, new("paused", enabled=False))
        store.meanwhile = lambda: schedules.create(ADA, new("faster"))
        assert self.refused(lambda: schedules.change(ADA, paused.id, {"enabled": True}))[0] == "schedules"
        assert store.census(USER).active == 5


def test_agents_are_kept_by_their_ids(schedules: ScheduleService) -> None:
    made = schedules.create(ADA, new(run={"message": "Go", "agent_id": "Brief"}))
    assert made.run == {"message": "Go", "agent_id": "id of Brief"}
    with pytest.raises(NotFound):
        schedules.change(ADA, made.id, {"run": {"message": "Go", "agent_id": "nobody"}})


class TestRights:
    def test_who_may_not_run_agents_schedules_nothing(self, schedules: ScheduleService) -> None:
        made = schedules.create(ADA, new())
        for refused in (replace(ADA, role=Role.VIEWER), replace(ADA, email_verified=False), with_key("schedule:write")):
            with pytest.raises(Forbidden):
                schedules.create(refused, new())
            for change in ({"run": {"message": "Else"}}, {"timing": None, "cron": "* * * * *"}):
                with pytest.raises(Forbidden):
                    schedules.change(refused, made.id, {k: v for k, v in change.items() if v})
            schedules.change(refused, made.id, {"name": f"n{refused.method}", "enabled": False})
            with pytest.raises(Forbidden):
                schedules.change(refused, made.id, {"enabled": True})
            schedules.change(ADA, made.id, {"enabled": True})

    def test_it_acts_for_whoever_wrote_it_last(self, schedules: ScheduleService) -> None:
        made = schedules.create(ADA, new())
        assert made.author == Author()
        by_key = with_key("schedule:write", "agent:run")
        named = schedules.change(by_key, made.id, {"name": "x"})
        assert named.author == Author()
        written = schedules.change(by_key, made.id, {"run": {"message": "Else"}})
        assert written.author == Author(api_key_id=ApiKeyId("k1"))
        assert schedules.change(ADA, made.id, {"cron": "5 * * * *"}).author == Author()
        assert schedules.create(by_key, new()).author == Author(api_key_id=ApiKeyId("k1"))


class TestTimes:
    def test_resuming_passes_over_what_was_missed(self, schedules: ScheduleService, clock: MovableClock) -> None:
        made = schedules.create(ADA, new())
        paused = schedules.change(ADA, made.id, {"enabled": False})
        assert (paused.status, paused.next_fire_at) == (ScheduleStatus.PAUSED, None)
        clock.pass_(hours=10)
        resumed = schedules.change(ADA, made.id, {"enabled": True})
        assert resumed.next_fire_at is not None
        assert clock.now() < resumed.next_fire_at <= clock.now() + HOUR
        assert resumed.counts.missed == 0

    def test_one_that_has_ended_or_passed_is_not_resumed(self, schedules: ScheduleService, clock: MovableClock) -> None:
        made = schedules.create(ADA, new(timing=Timing(at=clock.now() + HOUR)))
        schedules.change(ADA, made.id, {"enabled": False})
        clock.pass_(hours=2)
        with pytest.raises(ScheduleNeverFires):
            schedules.change(ADA, made.id, {"enabled": True})
        assert schedules.change(ADA, made.id, {"name": "still"}).name == "still"
        moved = schedules.change(ADA, made.id, {"enabled": True, "at": clock.now() + HOUR})
        assert moved.status is ScheduleStatus.ACTIVE

    def test_one_that_was_stopped_begins_anew(self, schedules: ScheduleService, store: Interrupted) -> None:
        made = schedules.create(ADA, new())
        store.schedules[made.id] = replace(made, stopped=True, enabled=False, next_fire_at=None, failures=10)
        assert schedules.change(ADA, made.id, {"name": "x"}).status is ScheduleStatus.STOPPED
        resumed = schedules.change(ADA, made.id, {"enabled": True})
        assert (resumed.status, resumed.failures) == (ScheduleStatus.ACTIVE, 0)

    def test_no_fire_comes_twice_to_a_clock_that_is_behind(
        self, schedules: ScheduleService, store: Interrupted, clock: MovableClock
    ) -> None:
        made = schedules.create(ADA, new())
        store.settle(fired(made), notice=None)
        assert made.next_fire_at is not None
        changed = schedules.change(ADA, made.id, {"cron": "0,30 * * * *"})
        assert changed.next_fire_at == made.next_fire_at + HOUR / 2


@pytest.mark.parametrize("schedule_id", ["", "x", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
def test_what_is_missing_is_not_found(schedules: ScheduleService, schedule_id: str) -> None:
    other = schedules.create(replace(ADA, user_id=UserId(new_id())), new())
    for missing in (schedule_id, other.id):
        for act in (
            lambda missing: schedules.get(USER, missing),
            lambda missing: schedules.delete(USER, missing),
            lambda missing: schedules.change(ADA, missing, {}),
        ):
            with pytest.raises(NotFound):
                act(missing)


def test_pages_go_from_the_newest_on(schedules: ScheduleService) -> None:
    made = sorted((schedules.create(ADA, new(f"{n}")).id for n in range(3)), reverse=True)
    first = schedules.page(USER, below="", limit=2)
    assert ([each.id for each in first.schedules], first.next_below) == (made[:2], made[1])
    rest = schedules.page(USER, below=made[1], limit=2)
    assert ([each.id for each in rest.schedules], rest.next_below) == (made[2:], None)


def test_a_change_says_what_stays() -> None:
    assert ChangeScheduleBody(name="x", version=3).changes() == {"name": "x"}
    assert ChangeScheduleBody.model_validate({"end_at": None}).changes() == {"end_at": None}
    for wrong in ({"name": None}, {"cron": None}, {"enabled": None}, {"run": None}):
        with pytest.raises(ValidationError):
            ChangeScheduleBody.model_validate(wrong)

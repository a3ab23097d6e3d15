"""Releases and rollouts: one suite for the stores in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from karma.core.clock import monotonic
from karma.core.errors import AlreadyExists
from karma.core.ids import DeviceId, UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.firmware.domain import (
    MAX_DEVICES,
    MAX_RELEASES,
    FirmwareChanged,
    Release,
    ReleaseId,
    ReleaseState,
    Rollout,
    RolloutBatch,
    RolloutId,
    RolloutState,
    RolloutTarget,
    TargetState,
    TooManyReleases,
    VersionTaken,
    batched,
    offered,
)
from karma.firmware.ports import Fleet, Releases, RolloutLooks, Rollouts
from karma.firmware.purge import FirmwarePurge
from karma.firmware.repository.releases import ReleaseRepository
from karma.firmware.repository.rollouts import RolloutRepository
from karma.identity.transactional import AccountGone
from tests.fakes.firmware import FakeJobs, MemoryBytes, MemoryFirmware, MemoryReleases, MemoryRollouts
from tests.support.accounts import open_account
from tests.support.requests import asked
from tests.support.stores import Database, Store

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
USER, OTHER, GONE = UserId(new_id()), UserId(new_id()), UserId(new_id())
DEVICES = [DeviceId(new_id()) for _ in range(5)]


class Both:
    """Both stores over one database."""

    releases: Releases
    rollouts: Rollouts
    looks: RolloutLooks

    def __init__(self, *, in_memory: bool) -> None:
        if in_memory:
            firmware = MemoryFirmware(deleted_accounts={GONE})
            self.releases = MemoryReleases(firmware)
            self.rollouts = self.looks = MemoryRollouts(firmware)
        else:
            for user in (USER, OTHER):
                open_account(user)
            self.releases = ReleaseRepository()
            self.rollouts = self.looks = RolloutRepository()

    def published(self, number: int = 1, *, user: UserId = USER) -> Release:
        draft = a_release(number, user=user)
        self.releases.create(draft, request=None)
        made = replace(draft, state=ReleaseState.PUBLISHED, published_at=NOW, version=2)
        self.releases.publish(made)
        return made

    def begun(self, release: Release, number: int = 1) -> Rollout:
        rollout = a_rollout(release, number)
        fleet = self.rollouts.fleet(release.user_id)
        self.rollouts.create(rollout, parts(rollout), fleet=fleet, request=None)
        return rollout


@pytest.fixture
def both(store: Store) -> Both:
    return Both(in_memory=store.in_memory)


def a_release(number: int = 1, *, user: UserId = USER) -> Release:
    return Release(
        id=ReleaseId(f"01890000-0000-7000-8000-{number:012d}"),
        user_id=user,
        state=ReleaseState.DRAFT,
        release_version=f"{number}.0",
        models=("EOS-3A", "EOS-3B"),
        size=800,
        sha256="ab" * 32,
        rollback_index=7,
        manifest='{"é": 1}',
        signature="c2ln",
        public_key="a2V5",
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


def a_rollout(release: Release, number: int = 1) -> Rollout:
    return Rollout(
        id=RolloutId(f"01890000-0000-7000-9000-{number:012d}"),
        user_id=release.user_id,
        release_id=release.id,
        release_version=release.release_version,
        waves=(20, 100),
        wave_began_at=NOW,
        wave_hours=24,
        abort_percent=20,
        abort_min_finished=5,
        timeout_minutes=60,
        size=len(DEVICES),
        created_at=NOW,
        updated_at=NOW,
        changed_at=NOW,
        version=1,
    )


def parts(rollout: Rollout, devices: list[DeviceId] = DEVICES) -> list[RolloutBatch]:
    targets = [RolloutTarget(device_id=each, serial=f"EOS-{each}", from_version=None) for each in devices]
    return batched(rollout.id, targets, rollout.waves)


def test_a_release_reads_back_whole(both: Both) -> None:
    draft = a_release()
    both.releases.create(draft, request=None)
    assert both.releases.get(USER, draft.id) == draft
    published = replace(
        draft, state=ReleaseState.PUBLISHED, published_at=NOW, updated_at=NOW + timedelta(seconds=1), version=2
    )
    both.releases.publish(published)
    assert both.releases.get(USER, draft.id) == published
    assert both.releases.get(OTHER, draft.id) is None
    assert both.rollouts.get(USER, RolloutId(draft.id)) is None


def test_a_request_makes_one_release(both: Both) -> None:
    both.releases.create(a_release(1), request=asked("t"))
    with pytest.raises(AlreadyExists):
        both.releases.create(a_release(2), request=asked("t"))
    assert both.releases.made_by(USER, asked("t")) == a_release(1).id
    assert both.releases.get(USER, a_release(2).id) is None
    with pytest.raises(IdempotencyKeyReused):
        both.releases.made_by(USER, asked("t", "another"))
    both.releases.create(a_release(3), request=asked("t", at=NOW + RETENTION))


def test_a_version_is_one_release_s_until_that_is_deleted(both: Both) -> None:
    both.releases.create(a_release(), request=None)
    again = replace(a_release(2), release_version=a_release().release_version)
    with pytest.raises(VersionTaken):
        both.releases.create(again, request=None)
    both.releases.create(a_release(1, user=OTHER), request=None)
    both.releases.delete(a_release(), fleet=both.rollouts.fleet(USER))
    assert both.releases.get(USER, a_release().id) is None
    both.releases.create(again, request=None)


def test_a_published_release_is_published_once_and_never_changed(both: Both) -> None:
    made = both.published()
    for other in (made, replace(made, manifest="{}", version=3), replace(made, version=4)):
        with pytest.raises(FirmwareChanged):
            both.releases.publish(other)
    assert both.releases.get(USER, made.id) == made


def test_an_account_has_only_so_many_releases(both: Both) -> None:
    # MAX_RELEASES creations would be slow: the count is what refuses.
    assert MAX_RELEASES == 200
    if isinstance(both.releases, MemoryReleases):
        for number in range(MAX_RELEASES):
            both.releases.create(a_release(number), request=None)
    else:
        from karma.core.dynamo.access import upsert
        from karma.firmware.items import FleetItem, fleet_key

        upsert(FleetItem(*fleet_key(USER)), [FleetItem.releases.set(MAX_RELEASES)])
    with pytest.raises(TooManyReleases):
        both.releases.create(a_release(MAX_RELEASES), request=None)


def test_lists_go_by_age_and_below_an_id(both: Both) -> None:
    made = [both.published(number) for number in (3, 2, 1)]
    both.published(4, user=OTHER)
    assert both.releases.page(USER, below="", limit=9) == made
    assert both.releases.page(USER, below=made[0].id, limit=1) == made[1:2]
    rollouts = [both.begun(made[0], number) for number in (3, 2, 1)]
    assert both.rollouts.page(USER, below="", limit=9) == rollouts
    assert both.rollouts.page(USER, below=rollouts[0].id, limit=1) == rollouts[1:2]
    assert both.rollouts.page(OTHER, below="", limit=9) == []


def test_nothing_is_made_for_an_account_that_is_gone(both: Both) -> None:
    with pytest.raises(AccountGone):
        both.releases.create(a_release(user=GONE), request=asked("t"))


def test_a_rollout_reads_back_whole_with_its_batches(both: Both) -> None:
    rollout = both.begun(both.published())
    assert both.rollouts.get(USER, rollout.id) == rollout
    assert both.rollouts.get(OTHER, rollout.id) is None
    assert both.rollouts.batches(rollout.id) == parts(rollout)
    assert both.rollouts.fleet(USER).open == {rollout.id}
    back = replace(
        a_rollout(a_release(), 2), rollback_of=rollout.id, state=RolloutState.ABORTED, reason="failure_rate", wave=2
    )
    both.rollouts.create(back, [], fleet=both.rollouts.fleet(USER), request=None)
    assert both.rollouts.get(USER, back.id) == back


def test_the_largest_rollout_fits_into_one_transaction(both: Both) -> None:
    release = both.published()
    rollout = replace(a_rollout(release), waves=tuple(range(10, 101, 10)), size=MAX_DEVICES)
    long = [
        RolloutTarget(device_id=DeviceId(new_id()), serial="S" * 64, from_version="v" * 50) for _ in range(MAX_DEVICES)
    ]
    batches = batched(rollout.id, long, rollout.waves)
    both.rollouts.create(rollout, batches, fleet=both.rollouts.fleet(USER), request=asked("t"))
    assert both.rollouts.batches(rollout.id) == batches


def test_a_request_makes_one_rollout(both: Both) -> None:
    release = both.published()
    first = a_rollout(release, 1)
    both.rollouts.create(first, parts(first), fleet=both.rollouts.fleet(USER), request=asked("t"))
    second = a_rollout(release, 2)
    with pytest.raises(AlreadyExists):
        both.rollouts.create(second, parts(second), fleet=both.rollouts.fleet(USER), request=asked("t"))
    assert both.rollouts.made_by(USER, asked("t")) == first.id
    assert both.rollouts.batches(second.id) == []
    with pytest.raises(IdempotencyKeyReused):
        both.rollouts.made_by(USER, asked("t", "another"))


def test_a_rollout_is_made_of_what_was_read(both: Both) -> None:
    release = both.published()
    seen = both.rollouts.fleet(USER)
    both.begun(release, 1)
    late = a_rollout(release, 2)
    with pytest.raises(FirmwareChanged):
        both.rollouts.create(late, parts(late), fleet=seen, request=None)
    draft = a_release(2)
    both.releases.create(draft, request=None)
    of_a_draft = a_rollout(draft, 3)
    with pytest.raises(FirmwareChanged):
        both.rollouts.create(of_a_draft, [], fleet=both.rollouts.fleet(USER), request=None)
    with pytest.raises(FirmwareChanged):
        both.releases.delete(release, fleet=seen)
    with pytest.raises(FirmwareChanged):
        both.releases.delete(replace(release, version=9), fleet=both.rollouts.fleet(USER))


def test_a_stale_version_changes_nothing(both: Both) -> None:
    rollout = both.begun(both.published())
    paused = rollout.moved(RolloutState.PAUSED, at=NOW + timedelta(minutes=1))
    both.rollouts.replace(rollout, paused)
    with pytest.raises(FirmwareChanged):
        both.rollouts.replace(rollout, rollout.moved(RolloutState.CANCELLED, at=NOW))
    assert both.rollouts.get(USER, rollout.id) == paused
    both.rollouts.replace(paused, cancelled := paused.moved(RolloutState.CANCELLED, at=NOW))
    assert both.rollouts.get(USER, rollout.id) == cancelled
    assert both.rollouts.fleet(USER).open == set()


def test_a_batch_is_saved_on_the_version_that_was_read(both: Both) -> None:
    rollout = both.begun(both.published())
    first = both.rollouts.batches(rollout.id)[0]
    saved = both.rollouts.save(offered(first, 1))
    assert saved == replace(offered(first, 1), version=2)
    assert both.rollouts.batches(rollout.id)[0] == saved
    with pytest.raises(FirmwareChanged):
        both.rollouts.save(first)
    assert both.rollouts.batches(rollout.id)[0].targets[0].state is TargetState.QUEUED
    with pytest.raises(FirmwareChanged):
        both.rollouts.save(replace(first, number=77))


def going_on(rollout: Rollout) -> Rollout:
    return replace(rollout, state=RolloutState.RUNNING, round=rollout.round + 1, version=rollout.version + 1)


def test_a_retry_opens_a_finished_rollout_and_changes_its_batches_or_nothing(both: Both) -> None:
    release = both.published()
    rollout = both.begun(release)
    done = rollout.moved(RolloutState.COMPLETED, at=NOW)
    both.rollouts.replace(rollout, done)
    seen, batches = both.rollouts.fleet(USER), both.rollouts.batches(rollout.id)
    assert seen.open == set()
    both.begun(release, 2)
    with pytest.raises(FirmwareChanged):  # another rollout was begun meanwhile, maybe to the same devices
        both.rollouts.retry(done, going_on(done), batches, fleet=seen)
    fleet = both.rollouts.fleet(USER)
    for wrong in (replace(batches[0], version=7), replace(batches[0], number=77)):
        with pytest.raises(FirmwareChanged):
            both.rollouts.retry(done, going_on(done), [batches[1], wrong], fleet=fleet)
    with pytest.raises(FirmwareChanged):
        both.rollouts.retry(rollout, going_on(rollout), batches, fleet=fleet)
    assert both.rollouts.get(USER, rollout.id) == done
    assert both.rollouts.batches(rollout.id) == batches
    both.rollouts.retry(done, going_on(done), [offered(batches[1], 2)], fleet=fleet)
    assert both.rollouts.get(USER, rollout.id) == going_on(done)
    assert both.rollouts.batches(rollout.id) == [batches[0], replace(offered(batches[1], 2), version=2), *batches[2:]]
    assert both.rollouts.fleet(USER).open == {rollout.id, a_rollout(release, 2).id}
    assert len(both.looks.due(before=NOW + timedelta(minutes=1), limit=9)) == 2
    again = going_on(going_on(done))
    both.rollouts.retry(going_on(done), again, both.rollouts.batches(rollout.id), fleet=seen)
    assert both.rollouts.get(USER, rollout.id) == again, "an open one depends on no fleet"


def test_a_retry_of_a_deleted_release_is_refused(both: Both) -> None:
    release = both.published()
    rollout = both.begun(release)
    done = rollout.moved(RolloutState.COMPLETED, at=NOW)
    both.rollouts.replace(rollout, done)
    both.releases.delete(release, fleet=both.rollouts.fleet(USER))
    with pytest.raises(FirmwareChanged):
        both.rollouts.retry(done, going_on(done), [], fleet=both.rollouts.fleet(USER))


def test_a_look_is_taken_once_and_ended_only_as_it_was_taken(both: Both) -> None:
    rollout = both.begun(both.published())
    assert both.looks.due(before=NOW, limit=9) == []
    later = NOW + timedelta(minutes=1)
    [due] = both.looks.due(before=later, limit=9)
    assert due[:2] == (USER, rollout.id)
    taken = both.looks.take(due, again_at=later)
    assert taken is not None
    assert both.looks.take(due, again_at=later) is None
    assert both.looks.due(before=later, limit=9) == []
    paused = rollout.moved(RolloutState.PAUSED, at=later)
    both.rollouts.replace(rollout, replace(paused, updated_at=later + timedelta(seconds=1)))
    both.looks.end(taken)
    assert len(both.looks.due(before=later + timedelta(minutes=1), limit=9)) == 1, "somebody wants another look"
    both.looks.end(both.looks.due(before=later + timedelta(minutes=1), limit=9)[0])
    assert both.looks.due(before=later + timedelta(minutes=1), limit=9) == []
    both.looks.end(taken)


def test_an_account_s_go_with_it(database: Database) -> None:
    stored = Both(in_memory=False)
    for user in (USER, OTHER):
        rollout = stored.begun(stored.published(1 if user is USER else 2, user=user), 1 if user is USER else 2)
        first = stored.rollouts.batches(rollout.id)[0]
        stored.rollouts.save(offered(first, 1))
    assert isinstance(stored.rollouts, RolloutRepository)
    data, jobs = MemoryBytes({a_release().id: b"x"}), FakeJobs(jobs={f"{a_rollout(a_release()).id}-1-1": {}})
    step = FirmwarePurge(rollouts=stored.rollouts, store=data, jobs=jobs)
    assert not step.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() - 1, settled=True))
    assert step.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() + 60, settled=True))
    assert (data.objects, jobs.jobs) == ({}, {})
    left = {item["pk"]["S"] for item in database.items("devices")}
    assert left == {f"FIRMWARE#{OTHER}", f"ROLLOUT#{a_rollout(a_release(), 2).id}"}


def test_the_fleet_of_an_account_without_any(both: Both) -> None:
    assert both.rollouts.fleet(USER) == Fleet(open=frozenset(), version=0)

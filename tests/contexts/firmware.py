"""Declarations of firmware for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pytest

from karma.core.errors import AlreadyExists
from karma.core.ids import DeviceId, new_id
from karma.core.requests import RETENTION
from karma.firmware.domain import (
    MAX_MANIFEST_CHARS,
    Release,
    ReleaseId,
    ReleaseState,
    Rollout,
    RolloutBatch,
    RolloutId,
    RolloutState,
    TargetState,
)
from karma.firmware.ports import Fleet, RolloutLook
from karma.firmware.purge import FirmwarePurge
from karma.firmware.repository.releases import ReleaseRepository
from karma.firmware.repository.rollouts import RolloutRepository
from tests.contract.stores.test_firmware import NOW as MADE
from tests.contract.stores.test_firmware import a_release, a_rollout, going_on, parts
from tests.fakes.firmware import FakeJobs, MemoryBytes, MemoryReleases, MemoryRollouts
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Fakes, Pages, Scenarios, made
from tests.support.firmware import FIRMWARE, manifest_of, signed
from tests.support.requests import asked
from tests.support.rows import LATER, NOW, AccountRows


class FirmwareRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.releases = ReleaseRepository()
        self.rollouts = RolloutRepository()
        self.fleet = Fleet(open=frozenset(), version=0)
        self.failed: list[RolloutBatch] = []

    def another(self) -> Release:
        return replace(a_release(user=self.ada.id), id=ReleaseId(new_id()))

    @cached_property
    def draft(self) -> Release:
        release = self.another()
        self.releases.create(release, request=asked("t"))
        return release

    @cached_property
    def published(self) -> Release:
        release = published(self.draft)
        self.releases.publish(release)
        return release

    def new_rollout(self) -> Rollout:
        return replace(a_rollout(self.published), id=RolloutId(new_id()))

    @cached_property
    def first(self) -> Rollout:
        rollout = self.new_rollout()
        fleet = self.rollouts.fleet(rollout.user_id)
        self.rollouts.create(rollout, parts(rollout), fleet=fleet, request=asked("r"))
        return rollout

    @cached_property
    def completed(self) -> Rollout:
        done = self.first.moved(RolloutState.COMPLETED, at=LATER)
        self.rollouts.replace(self.first, done)
        self.fleet = self.rollouts.fleet(done.user_id)
        self.failed = self.rollouts.batches(done.id)
        return done

    @cached_property
    def look(self) -> RolloutLook:
        self.first  # noqa: B018
        return next(each for each in self.rollouts.due(before=MADE.replace(year=2027), limit=9))

    def step(self) -> FirmwarePurge:
        return FirmwarePurge(rollouts=self.rollouts, store=MemoryBytes(), jobs=FakeJobs())


def published(draft: Release) -> Release:
    return replace(draft, state=ReleaseState.PUBLISHED, published_at=NOW, version=draft.version + 1)


FAKES: Fakes = {MemoryReleases: (ReleaseRepository,), MemoryRollouts: (RolloutRepository,)}

SCENARIOS = Scenarios[FirmwareRows](
    FirmwareRows,
    {
        "ReleaseRepository.get": made(lambda r: r.draft, lambda r, n: r.releases.get(n.user_id, n.id)),
        "ReleaseRepository.made_by": made(lambda r: r.draft, lambda r, n: r.releases.made_by(n.user_id, asked("t"))),
        "ReleaseRepository.create": made(lambda r: r.another(), lambda r, n: r.releases.create(n, request=asked("t"))),
        "ReleaseRepository.publish": made(lambda r: r.draft, lambda r, n: r.releases.publish(published(n))),
        "ReleaseRepository.delete": made(
            lambda r: (r.draft, r.rollouts.fleet(r.draft.user_id)), lambda r, n: r.releases.delete(n[0], fleet=n[1])
        ),
        "ReleaseRepository.page": made(lambda r: r.draft, lambda r, n: r.releases.page(n.user_id, below="", limit=5)),
        "RolloutRepository.fleet": made(lambda r: r.draft, lambda r, n: r.rollouts.fleet(n.user_id)),
        "RolloutRepository.get": made(lambda r: r.first, lambda r, n: r.rollouts.get(n.user_id, n.id)),
        "RolloutRepository.made_by": made(lambda r: r.first, lambda r, n: r.rollouts.made_by(n.user_id, asked("r"))),
        "RolloutRepository.create": made(
            lambda r: (new := r.new_rollout(), r.rollouts.fleet(new.user_id)),
            lambda r, n: r.rollouts.create(n[0], parts(n[0]), fleet=n[1], request=asked("r")),
        ),
        "RolloutRepository.replace": made(
            lambda r: r.first, lambda r, n: r.rollouts.replace(n, n.moved(RolloutState.CANCELLED, at=LATER))
        ),
        "RolloutRepository.retry": made(
            lambda r: r.completed, lambda r, n: r.rollouts.retry(n, going_on(n), r.failed, fleet=r.fleet)
        ),
        "RolloutRepository.batches": made(lambda r: r.first, lambda r, n: r.rollouts.batches(n.id)),
        "RolloutRepository.save": made(lambda r: r.rollouts.batches(r.first.id)[0], lambda r, n: r.rollouts.save(n)),
        "RolloutRepository.page": made(lambda r: r.first, lambda r, n: r.rollouts.page(n.user_id, below="", limit=5)),
        "RolloutRepository.due": made(lambda r: r.first, lambda r, _: r.rollouts.due(before=LATER, limit=5)),
        "RolloutRepository.take": made(lambda r: r.look, lambda r, n: r.rollouts.take(n, again_at=LATER)),
        "RolloutRepository.end": made(lambda r: r.look, lambda r, n: r.rollouts.end(n)),
        "FirmwarePurge.purge_account": made(lambda r: (r.first, r.purge()), lambda r, n: r.step().purge_account(n[1])),
    },
)


def _made_over(rows: FirmwareRows) -> None:
    rows.draft  # noqa: B018
    again = replace(rows.another(), release_version="9.9")
    with pytest.raises(AlreadyExists):
        rows.releases.create(again, request=asked("t"))
    rows.releases.create(again, request=asked("t", at=NOW + RETENTION))


EXPIRES = Checks[FirmwareRows](FirmwareRows, {"firmware_request": _made_over})


def _release(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/firmware/releases", _new_release(world, owner))["release"]["id"])


def _new_release(_: World, __: str) -> dict[str, Any]:
    return dict(signed(manifest_of(FIRMWARE, version=f"1.{new_id()[-8:]}"))._asdict())


def _published(world: World, owner: str) -> Release:
    user_id = world.person(owner).id
    draft = replace(a_release(user=user_id), id=ReleaseId(new_id()), release_version=new_id()[-12:])
    ReleaseRepository().create(draft, request=None)
    release = published(draft)
    ReleaseRepository().publish(release)
    return release


def _rollout(world: World, owner: str, _: Mapping[str, str]) -> str:
    rollout = replace(a_rollout(_published(world, owner)), id=RolloutId(new_id()))
    store = RolloutRepository()
    store.create(rollout, parts(rollout), fleet=store.fleet(rollout.user_id), request=None)
    return rollout.id


def _uploaded(world: World, owner: str, _: Mapping[str, str]) -> str:
    release_id = _release(world, owner, {})
    key = f"firmware/{world.person(owner).id}/{release_id}"
    world.stack.aws("s3").put_object(Bucket=world.stack.bucket, Key=key, Body=FIRMWARE)
    return release_id


def _begun(world: World, owner: str, _: Mapping[str, str]) -> str:
    """Store a rollout to a device of the owner's, which has begun."""
    return _with(world, owner, TargetState.IN_PROGRESS)


def _failed(world: World, owner: str, _: Mapping[str, str]) -> str:
    """Store a rollout to a device of the owner's, which has failed."""
    return _with(world, owner, TargetState.FAILED)


def _with(world: World, owner: str, state: TargetState) -> str:
    rollout = replace(a_rollout(_published(world, owner)), id=RolloutId(new_id()), size=1, created_at=datetime.now(UTC))
    batches = parts(rollout, [DeviceId(world.thing(owner, "device_id", {}))])
    target = replace(batches[0].targets[0], state=state, round=1)
    store = RolloutRepository()
    fleet = store.fleet(rollout.user_id)
    store.create(rollout, [replace(batches[0], targets=(target,))], fleet=fleet, request=None)
    return rollout.id


def _new_rollout(world: World, owner: str) -> dict[str, Any]:
    device_id = world.thing(owner, "device_id", {})
    return {"release_id": _published(world, owner).id, "device_ids": [device_id]}


_ROLLOUT = "/api/v1/firmware/rollouts/{rollout_id}"

OBJECTS: Objects = {
    "release_id": _release,
    "release_id of POST /api/v1/firmware/releases/{release_id}/publish": _uploaded,
    "rollout_id": _rollout,
    **{f"rollout_id of POST {_ROLLOUT}/{verb}": _rollout for verb in ("pause", "resume", "cancel")},
    f"rollout_id of POST {_ROLLOUT}/rollback": _begun,
    f"rollout_id of POST {_ROLLOUT}/retry": _failed,
}

BODIES: Bodies = {
    "POST /api/v1/firmware/releases": _new_release,
    "POST /api/v1/firmware/rollouts": _new_rollout,
    "POST /api/v1/firmware/releases/{release_id}/publish": lambda *_: {},
    **{f"POST {_ROLLOUT}/{verb}": lambda *_: {} for verb in ("pause", "resume", "cancel", "retry")},
    f"POST {_ROLLOUT}/rollback": lambda world, owner: {"release_id": _published(world, owner).id},
}

PAGES: Pages = {
    "firmware/releases": (100, 4 * MAX_MANIFEST_CHARS + 2_000),
    "firmware/rollouts": (100, 1_500),
    "firmware/rollouts/{rollout_id}/devices": (100, 1_000),
}

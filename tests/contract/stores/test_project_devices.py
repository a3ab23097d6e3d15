"""Devices that projects show; they have no fake: one suite for all engines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.core.errors import NotFound
from karma.core.ids import DeviceId, ProjectId, UserId, new_id
from karma.devices.transactional import require_device
from karma.projects.domain import ProjectChanged, ProjectRole
from tests.contexts.projects import ProjectRows
from tests.support.rows import LATER, NOW


@pytest.fixture
def work(rows: object) -> ProjectRows:
    assert rows
    return ProjectRows()


class TestAShare:
    def test_is_found_by_its_project_and_its_device(self, work: ProjectRows) -> None:
        first, second = work.shown_device(), work.shown_device()
        assert set(work.project_devices.of_project(first.project_id)) == {first, second}
        assert work.project_devices.of_device(first.device_id) == [first]
        assert work.project_devices.of_device(DeviceId(new_id())) == []

    def test_is_read_with_all_that_decides_whether_it_counts(self, work: ProjectRows) -> None:
        share, stranger = work.shown_device(), UserId(new_id())
        found = work.project_devices.at(share, stranger)
        assert found.project is not None
        assert (found.project.id, found.share, found.viewer) == (share.project_id, share, None)
        assert found.owner is not None
        assert (found.owner.user_id, found.counts) == (share.owner_id, True)
        member = work.joining().after
        assert member is not None
        work.projects.change_member(work.joining())
        seen = work.project_devices.at(share, member.user_id)
        assert seen.viewer is not None
        assert (seen.viewer.role, seen.counts) == (ProjectRole.OWNER, True)
        assert not work.project_devices.at(replace(share, device_id=DeviceId(new_id())), stranger).counts

    def test_of_before_its_owner_joined_counts_no_more(self, work: ProjectRows) -> None:
        share = work.add_share(work.new_share(shared_at=NOW.replace(year=2025)))
        assert not work.project_devices.at(share, share.owner_id).counts
        renewed = work.add_share(replace(share, shared_at=LATER))
        assert work.project_devices.at(renewed, share.owner_id).counts
        assert work.project_devices.of_device(share.device_id) == [renewed]

    def test_needs_the_project_the_role_and_what_its_maker_asks(self, work: ProjectRows) -> None:
        share, owner = work.new_share(), work.project[1]
        with pytest.raises(NotFound):
            work.project_devices.add(
                share, actor=owner, also=lambda tx: require_device(tx, share.owner_id, share.device_id)
            )
        with pytest.raises(ProjectChanged):
            work.project_devices.add(share, actor=replace(owner, role=ProjectRole.VIEWER), also=lambda _: None)
        work.deleted_project  # noqa: B018  a tombstone from here on
        with pytest.raises(ProjectChanged):
            work.add_share(share)
        assert work.project_devices.of_project(share.project_id) == []

    def test_is_removed_once_and_by_its_owner_s_name(self, work: ProjectRows) -> None:
        share = work.shown_device()
        assert not work.project_devices.remove(replace(share, owner_id=UserId(new_id())))
        assert work.project_devices.remove(share)
        assert not work.project_devices.remove(share)
        assert not work.project_devices.at(share, share.owner_id).counts

    def test_goes_with_its_project(self, work: ProjectRows) -> None:
        share = work.shown_device()
        assert work.projects.finish_delete(work.deleted_project.id, most=5)
        assert work.project_devices.of_project(share.project_id) == []
        assert work.project_devices.of_device(share.device_id) == []

    def test_is_counted_with_each_change_of_its_project_until_that_is_deleted(self, work: ProjectRows) -> None:
        project, owner = work.project

        def changes() -> int:
            seen = work.project_devices.seen(owner.user_id, [project.id, ProjectId(new_id())])
            assert set(seen) <= {project.id}
            return seen[project.id].changes if seen else 0

        assert changes() == 0, "it has shown nothing yet"
        first = work.shown_device()
        counted = [changes()]
        work.add_share(replace(first, shared_at=LATER))
        counted.append(changes())
        assert not work.project_devices.remove(replace(first, owner_id=UserId(new_id())))
        assert changes() == counted[-1]
        assert work.project_devices.remove(first)
        counted.append(changes())
        assert counted == sorted(set(counted))
        assert work.project_devices.seen(UserId(new_id()), [project.id]) == {}, "who is no member sees none"
        last = work.shown_device()
        work.deleted_project  # noqa: B018  a tombstone from here on
        assert changes() == 0
        assert work.project_devices.remove(last)
        assert changes() == 0
        assert not work.project_devices.remove(last)

    def test_is_read_with_its_owners_and_projects_with_their_members(self, work: ProjectRows) -> None:
        project, owner = work.project
        stranger = UserId(new_id())
        asked = [(project.id, owner.user_id), (project.id, stranger)]
        assert work.project_devices.members(asked) == {asked[0]: owner}
        ids = [project.id, ProjectId(new_id())]
        assert work.project_devices.readable(owner.user_id, ids) == {project.id}
        assert work.project_devices.readable(stranger, ids) == work.project_devices.readable(stranger, []) == set()
        work.deleted_project  # noqa: B018
        assert work.project_devices.readable(owner.user_id, ids) == set()

"""Owners of a project: it always has one, and at most ten."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import ProjectId, UserId, new_id
from karma.projects.domain import (
    MAX_OWNERS,
    LastOwnerStays,
    Project,
    ProjectRole,
    ProjectStatus,
    TooManyOwners,
    owners_after,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PEOPLE = [UserId(f"user-{number}") for number in range(MAX_OWNERS + 1)]


def owned_by(*owners: UserId) -> Project:
    return Project(
        id=ProjectId(new_id()),
        name="Greenhouse",
        description=None,
        status=ProjectStatus.ACTIVE,
        progress=0,
        owners=owners,
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


class TestOwners:
    def test_ownership_passes_to_the_owner_of_longest_standing_after_the_one_who_leaves(self) -> None:
        ada, eve, ida, *_ = PEOPLE
        project = owned_by(ada, eve, ida)
        assert project.owner_id == ada
        assert owners_after(project, ada, None) == (eve, ida)
        assert owners_after(project, ada, ProjectRole.VIEWER) == (eve, ida)
        assert owners_after(project, eve, ProjectRole.ADMIN) == (ada, ida)

    @pytest.mark.parametrize("role", [ProjectRole.ADMIN, ProjectRole.MEMBER, ProjectRole.VIEWER, None])
    def test_the_last_owner_stays(self, role: ProjectRole | None) -> None:
        with pytest.raises(LastOwnerStays):
            owners_after(owned_by(PEOPLE[0]), PEOPLE[0], role)

    def test_there_is_room_for_ten(self) -> None:
        *first, last = PEOPLE
        with pytest.raises(TooManyOwners):
            owners_after(owned_by(*first), last, ProjectRole.OWNER)
        assert owners_after(owned_by(*first), first[3], ProjectRole.OWNER) == tuple(first)

    @given(
        st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=MAX_OWNERS, unique=True),
        st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from([*ProjectRole, None]))),
    )
    def test_whatever_is_asked_there_is_an_owner_and_nobody_is_one_twice(
        self, owners: list[UserId], steps: list[tuple[UserId, ProjectRole | None]]
    ) -> None:
        project = owned_by(*owners)
        for user_id, role in steps:
            try:
                after = owners_after(project, user_id, role)
            except (LastOwnerStays, TooManyOwners):
                continue
            assert (user_id in after) == (role is ProjectRole.OWNER)
            assert 1 <= len(after) == len(set(after)) <= MAX_OWNERS
            project = owned_by(*after)

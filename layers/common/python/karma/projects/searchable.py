"""Rows of search for projects: each of its members has one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from karma.core.happenings import Image, ItemChange, text_in
from karma.core.ids import ProjectId, UserId, made_ms
from karma.core.search_rows import RowChange, SearchKey, SearchText, SearchType
from karma.core.searchables import SearchSource, in_hours, kind_of, moment_in

_PROJECT: Final = SearchType(
    name="project",
    words=("projects", "项目"),
    permission="project:read",
    statuses={
        "active": ("进行中",),
        "paused": ("已暂停",),
        "completed": ("已完成", "done"),
        "archived": ("已归档",),
    },
)
_MEMBERS_A_PAGE: Final = 100


class ProjectSource:
    """Projects, and who finds them.

    A project and its memberships are one partition, so that their changes come in their order: whoever became a member
    before a change of the project has its row from it, and who did behind it has one from their own record.
    """

    types: Sequence[SearchType] = (_PROJECT,)

    def rows(self, change: ItemChange) -> Iterable[RowChange]:
        """Return the rows of a project's members, or of one whose membership has begun or ended."""
        kind, image = kind_of(change), change.new or change.old
        project_id = ProjectId(text_in(image, "project_id"))
        if kind == "project_member":
            return _of_member(project_id, UserId(text_in(image, "user_id")), is_member=change.new is not None)
        if kind != _PROJECT.name or (change.old and change.new and _shown(change.old) == _shown(change.new)):
            return []
        text = _shown(change.new)
        return [RowChange(_key(user, project_id), text) for user in _members(project_id)]


def source() -> SearchSource:
    """Return what is found of projects."""
    return ProjectSource()


def _key(user_id: UserId, project_id: ProjectId) -> SearchKey:
    # By its id: when the last membership ends, the project may be gone already.
    return SearchKey(user_id, _PROJECT.name, project_id, made_ms(project_id))


def _shown(image: Image | None) -> SearchText | None:
    """Return what is found of a project as it is stored; None: it is deleted."""
    if not image or text_in(image, "deleting_at"):
        return None
    return SearchText(
        name=text_in(image, "name"),
        text=text_in(image, "description"),
        status=text_in(image, "status"),
        updated_ms=in_hours(moment_in(image, "updated_at")),
    )


def _of_member(project_id: ProjectId, user_id: UserId, *, is_member: bool) -> list[RowChange]:
    from karma.core.clock import epoch_ms  # local: few changes are of a membership
    from karma.projects.repository.projects import ProjectRepository

    key = _key(user_id, project_id)
    project = ProjectRepository().read(project_id).project if is_member else None
    if project is None or project.deleting:
        return [RowChange(key, None)]
    text = SearchText(
        name=project.name,
        text=project.description or "",
        status=project.status,
        updated_ms=in_hours(epoch_ms(project.updated_at)),
    )
    return [RowChange(key, text)]


def _members(project_id: ProjectId) -> Iterator[UserId]:
    from karma.projects.repository.projects import ProjectRepository

    repository, after = ProjectRepository(), None
    while True:
        page = repository.of_project(project_id, limit=_MEMBERS_A_PAGE, after=after)
        for member in page.members:
            yield member.user_id
            after = member.user_id
        if not page.more:
            return

"""Use cases of projects: create, list, read, change, delete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, InvalidRequest, StaleVersion, Upstream
from karma.core.ids import ProjectId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.projects.access import ProjectAccess, missing
from karma.projects.domain import Membership, Project, ProjectChanged, ProjectRole, ProjectStatus
from karma.projects.permissions import ProjectPermission
from karma.projects.ports import Projects

MAX_OFFSET_ROWS = 1_000
"""Largest number of rows that pages by number reach, and that are counted for a total."""
MEMBERSHIPS_A_REQUEST = 1_000
"""Largest number of memberships that a request removes, or whose seats it moves, by itself; the sweep does the rest."""


class NewProject(Record, kw_only=True):
    """Content of a new project; lengths are checked by schemas.CreateProjectRequest."""

    name: str
    description: str | None = None
    status: ProjectStatus = ProjectStatus.ACTIVE
    progress: int = 0


class Seen(Record, kw_only=True):
    """A project with the role of the member who reads it."""

    project: Project
    role: ProjectRole


class PageQuery(Record, kw_only=True):
    """Position and size of a page. `after` is the `next_after` of the page before; it excludes `offset`."""

    limit: int = 20
    offset: int = 0
    after: str = ""
    newest_first: bool = True


class ProjectPage(Record, kw_only=True):
    """A page of projects."""

    projects: tuple[Seen, ...]
    total: int
    total_capped: bool
    """True: counting stopped at 1,000."""
    next_after: ProjectId | None


class ProjectService:
    """Use cases of projects."""

    def __init__(self, store: Projects, clock: Clock) -> None:
        self._store = store
        self._access = ProjectAccess(store)
        self._clock = clock

    # Reading

    def get(self, user_id: UserId, project_id: str) -> Seen:
        """Return a project, in one read.

        Raises:
            NotFound: the project does not exist or is deleted, or the person is no member.
        """
        admitted = self._access.require(user_id, project_id, ProjectPermission.READ)
        return Seen(project=admitted.project, role=admitted.member.role)

    def list(self, user_id: UserId, query: PageQuery) -> ProjectPage:
        """Return a page of the projects that the person is a member of, by age.

        One query of memberships, one batch read, and unless the first page holds all, one query that counts. Projects
        that are being deleted are left out after they were read, so that a page may be shorter than asked.

        Raises:
            InvalidRequest: INVALID_PAGE, the page by number lies beyond 1,000 rows.
        """
        require_shallow(query)
        after = ProjectId(query.after) if query.after else None
        rows = self._store.of_user(
            user_id, newest_first=query.newest_first, limit=query.offset + query.limit, after=after
        )
        shown = rows.members[query.offset :]
        found = self._store.projects([member.project_id for member in shown]) if shown else {}
        total = len(rows.members)
        if rows.more or after:
            total = max(total, self._store.count_of_user(user_id, most=MAX_OFFSET_ROWS))
        return ProjectPage(
            projects=tuple(
                Seen(project=found[member.project_id], role=member.role)
                for member in shown
                if member.project_id in found
            ),
            total=total,
            total_capped=total >= MAX_OFFSET_ROWS,
            next_after=shown[-1].project_id if rows.more and shown else None,
        )

    # Writing

    def create(self, user_id: UserId, new: NewProject, *, idempotency_key: IdempotencyKey | None = None) -> Seen:
        """Store a new project, whose only member owns it; a repeat with the same key returns that project.

        Raises:
            AlreadyCreated: this repeats a request whose project was deleted meanwhile.
            IdempotencyKeyReused: the first request asked for another project.
            AccountGone: the account is deleted.
            OwnsTooMany: it owns as many as an account may own.
        """
        now = self._clock.now()
        project = Project(
            id=ProjectId(new_id()),
            name=new.name,
            description=new.description,
            status=new.status,
            progress=new.progress,
            owners=(user_id,),
            created_at=now,
            updated_at=now,
            version=1,
        )
        owner = Membership(
            project_id=project.id, user_id=user_id, role=ProjectRole.OWNER, joined_at=now, accepted_at=now, version=1
        )
        request = repeatable(idempotency_key, new, at=now)
        try:
            self._store.create(project, owner, request=request)
        except AlreadyExists:
            if request is None:
                raise
            return self._made_before(user_id, request)
        count("ProjectCreated")
        logger.info("project.created", project_id=project.id)
        return Seen(project=project, role=owner.role)

    def _made_before(self, user_id: UserId, request: RepeatableRequest) -> Seen:
        made = self._store.made_by(user_id, request)
        project, members = self._store.read(made, user_id) if made else (None, {})
        if project is None or project.deleting or user_id not in members:
            raise no_longer(made)
        return Seen(project=project, role=members[user_id].role)

    def change(
        self, user_id: UserId, project_id: str, changes: Mapping[str, Any], *, version: int | None = None
    ) -> Seen:
        """Change name, description, status or progress; write nothing if no value differs.

        Raises:
            NotFound: the project does not exist or is deleted, or the person is no member.
            Forbidden: the person's role may not change the project.
            StaleVersion: `version` is not the stored one.
            AccountGone: the account is deleted.
        """

        def once() -> Seen:
            admitted = self._access.require(user_id, project_id, ProjectPermission.CHANGE)
            before = admitted.project
            require_version(before.version, version)
            after = replace(before, **changes)
            if after != before:
                after = replace(after, updated_at=self._clock.now(), version=before.version + 1)
                self._store.change(before, after, actor=admitted.member)
            return Seen(project=after, role=admitted.member.role)

        return repeat(once, on=(ProjectChanged,))

    def delete(self, user_id: UserId, project_id: str, *, version: int | None = None) -> None:
        """Delete a project: write a tombstone, remove its memberships, then the tombstone.

        Nobody sees the project once the tombstone is written. May be repeated after a crash at any point; memberships
        that are left, and those beyond 1,000, are removed by the sweep.

        Raises:
            NotFound: the project does not exist or is deleted, or the person is no member.
            Forbidden: the person's role may not delete the project.
            StaleVersion: `version` is not the stored one.
            AccountGone: the account is deleted.
        """
        if self._is_owners_tombstone(user_id, project_id):
            finish_delete(self._store, ProjectId(project_id))
            return

        def once() -> ProjectId:
            admitted = self._access.require(user_id, project_id, ProjectPermission.DELETE)
            require_version(admitted.project.version, version)
            self._store.begin_delete(admitted.project, actor=admitted.member, at=self._clock.now())
            return admitted.project.id

        deleted = repeat(once, on=(ProjectChanged,))
        count("ProjectDeleted")
        logger.info("project.deleted", project_id=deleted)
        finish_delete(self._store, deleted)

    def _is_owners_tombstone(self, user_id: UserId, project_id: str) -> bool:
        """Tell whether this repeats a deletion; memberships may be gone already, the tombstone still has its owners."""
        if not is_id(project_id):
            raise missing(project_id)
        project = self._store.read(ProjectId(project_id)).project
        return project is not None and project.deleting and user_id in project.owners


def finish_delete(store: Projects, project_id: ProjectId) -> None:
    """Remove up to `MEMBERSHIPS_A_REQUEST` memberships of a deleted project now; the sweep removes the others."""
    try:
        store.finish_delete(project_id, most=MEMBERSHIPS_A_REQUEST)
    except Upstream as exc:
        logger.warning("project.left_for_sweep", project_id=project_id, code=exc.code)


def settle_seats(store: Projects, before: Project, owners: tuple[UserId, ...]) -> None:
    """Move up to `MEMBERSHIPS_A_REQUEST` seats of a project whose payer has changed; the sweep moves the others."""
    if owners[0] == before.owner_id:
        return
    try:
        store.move_seats(before.id, most=MEMBERSHIPS_A_REQUEST)
    except Upstream as exc:
        logger.warning("project.seats_left_for_sweep", project_id=before.id, code=exc.code)


def require_version(stored: int, expected: int | None) -> None:
    """Check that a change is of the stored version; None: of any.

    Raises:
        StaleVersion: `expected` is not the stored version.
    """
    if expected is not None and expected != stored:
        raise StaleVersion(f"It has version {stored} by now; read it again")


def require_shallow(query: PageQuery) -> None:
    """Check that a page by number lies within `MAX_OFFSET_ROWS`.

    Raises:
        InvalidRequest: INVALID_PAGE, the page lies beyond it.
    """
    if query.offset + query.limit > MAX_OFFSET_ROWS:
        raise InvalidRequest(f"Pages by number end at {MAX_OFFSET_ROWS} rows; go on with `cursor`", code="INVALID_PAGE")

"""Projects in the table `work`; access patterns are in docs/adr/0019-projects.md.

| item | pk | sk | gsi1pk | gsi1sk |
| --- | --- | --- | --- | --- |
| project | PROJECT#<id> | PROJECT | - | - |
| its tombstone | PROJECT#<id> | PROJECT | PROJECTS#DELETING | <moment>#<id> |
| membership | PROJECT#<id> | MEMBER#<user> | USER#<user> | PROJECT#<id> |
| what an Idempotency-Key made | USER#<user> | REQUEST#<token> | - | - |

A membership is one item: by its key in the project, by its index key in the person's list. Ids sort by time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import batch_get, count, delete, get, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key, TableMeta, bind
from karma.core.dynamo.partitions import empty, pages
from karma.core.dynamo.requests import RequestAttributes, note_request, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.errors import AlreadyExists
from karma.core.ids import ProjectId, UserId
from karma.core.purge import Purge
from karma.identity.holdings import Holding, hold, release
from karma.identity.parent import require_account_in
from karma.identity.trail import record_in
from karma.projects.domain import Membership, Project, ProjectChanged, ProjectRole, ProjectStatus
from karma.projects.ports import MemberChange, Read, Rows

_PROJECT: Final = "PROJECT"
_PROJECT_PREFIX: Final = "PROJECT#"
_MEMBER_PREFIX: Final = "MEMBER#"
_DELETING: Final = "PROJECTS#DELETING"
"""Partition of gsi1 with the tombstones, by when they were put."""
_BATCH: Final = 100
"""Items of one BatchGetItem."""


class ProjectsItem(Item):
    """Base of what projects keep in the table `work`."""

    class Meta(TableMeta):
        """Replaced by `bind`."""

        table_name = "work"


class ProjectItem(ProjectsItem, discriminator="project"):
    """A project."""

    project_id = UnicodeAttribute()
    name = UnicodeAttribute()
    description = UnicodeAttribute(null=True)
    status = UnicodeAttribute()
    progress = NumberAttribute()
    owners = JSONAttribute()
    """User ids, in the order in which they became owners."""
    deleting_at = UnicodeAttribute(null=True)
    """Of a tombstone."""


class MemberItem(ProjectsItem, discriminator="project_member"):
    """A membership; `created_at` is when the person joined."""

    project_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    role = UnicodeAttribute()
    request_token = UnicodeAttribute(null=True)
    """Of the request that added the member."""


class ProjectRequestItem(RequestAttributes, ProjectsItem, discriminator="project_request"):
    """What a request with an Idempotency-Key made."""


def project_key(project_id: ProjectId) -> Key:
    """Key of a project."""
    return Key(f"{_PROJECT_PREFIX}{project_id}", _PROJECT)


def member_key(project_id: ProjectId, user_id: UserId) -> Key:
    """Key of a membership."""
    return Key(f"{_PROJECT_PREFIX}{project_id}", f"{_MEMBER_PREFIX}{user_id}")


def user_pk(user_id: UserId) -> str:
    """Partition of a person's requests, and of the index with their memberships."""
    return f"USER#{user_id}"


class ProjectRepository:
    """ProjectStore over DynamoDB, and the projects' step in the deletion of an account."""

    name = "projects"
    """Of the step."""

    def __init__(self, table_name: str) -> None:
        """Bind the table; that of the accounts is bound by the composition root. No request is made."""
        bind(ProjectsItem, table_name)

    # Reading

    def read(self, project_id: ProjectId, *user_ids: UserId) -> Read:
        """See ProjectStore; one BatchGet."""
        users = dict.fromkeys(user_ids)
        keys = [project_key(project_id), *(member_key(project_id, user_id) for user_id in users)]
        found = batch_get(ProjectsItem, keys, consistent=True)
        project = found.get(keys[0])
        members = {UserId(item.user_id): _member(item) for item in found.values() if isinstance(item, MemberItem)}
        return Read(_project(project) if isinstance(project, ProjectItem) else None, members)

    def projects(self, ids: Sequence[ProjectId]) -> Mapping[ProjectId, Project]:
        """See ProjectStore; one BatchGet a hundred, eventually consistent."""
        found: dict[ProjectId, Project] = {}
        for at in range(0, len(ids), _BATCH):
            items = batch_get(ProjectItem, [project_key(each) for each in ids[at : at + _BATCH]])
            found |= {ProjectId(item.project_id): _project(item) for item in items.values() if not item.deleting_at}
        return found

    def of_user(self, user_id: UserId, *, newest_first: bool, limit: int, after: ProjectId | None) -> Rows:
        """See ProjectStore; one Query of the index."""
        start = None
        if after is not None:
            start = {
                **member_key(after, user_id)._asdict(),
                "gsi1pk": user_pk(user_id),
                "gsi1sk": f"{_PROJECT_PREFIX}{after}",
            }
        page = query(
            ProjectsItem,
            user_pk(user_id),
            ProjectsItem.gsi1sk.startswith(_PROJECT_PREFIX),
            limit=limit + 1,
            forward=not newest_first,
            start=start,
            index=ProjectsItem.gsi1,
        )
        return _rows(page.items, limit)

    def count_of_user(self, user_id: UserId, *, most: int) -> int:
        """See ProjectStore; one Query of the index."""
        mine = ProjectsItem.gsi1sk.startswith(_PROJECT_PREFIX)
        return count(ProjectsItem, user_pk(user_id), mine, most=most, index=ProjectsItem.gsi1)

    def of_project(self, project_id: ProjectId, *, limit: int, after: UserId | None) -> Rows:
        """See ProjectStore; one Query, strongly consistent."""
        page = query(
            ProjectsItem,
            project_key(project_id).pk,
            ProjectsItem.sk.startswith(_MEMBER_PREFIX),
            limit=limit + 1,
            start=member_key(project_id, after)._asdict() if after is not None else None,
            consistent=True,
        )
        return _rows(page.items, limit)

    def count_of_project(self, project_id: ProjectId, *, most: int) -> int:
        """See ProjectStore; one Query."""
        return count(ProjectsItem, project_key(project_id).pk, ProjectsItem.sk.startswith(_MEMBER_PREFIX), most=most)

    def made_by(self, user_id: UserId, request_token: str) -> ProjectId | None:
        """See ProjectStore; one Get."""
        item = get(ProjectRequestItem, request_key(user_pk(user_id), request_token), consistent=True)
        return ProjectId(item.made_id) if item else None

    def added_by(self, request_token: str, project_id: ProjectId, user_id: UserId) -> Membership | None:
        """See ProjectStore; one Get."""
        item = get(MemberItem, member_key(project_id, user_id), consistent=True)
        return _member(item) if item and item.request_token == request_token else None

    # Writing

    def create(self, project: Project, owner: Membership, *, request_token: str) -> None:
        """See ProjectStore; one transaction of 4 or 5 items."""
        tx = Transaction()
        tx.put(_project_item(project))
        tx.put(_member_item(owner, request_token=""))
        if request_token:
            note_request(
                tx,
                ProjectRequestItem(*request_key(user_pk(owner.user_id), request_token)),
                project.id,
                at=project.created_at,
                repeated=AlreadyExists("This request was carried out before"),
            )
        hold(tx, owner.user_id, Holding.PROJECT)
        tx.commit()

    def change(self, before: Project, after: Project, *, actor: Membership) -> None:
        """See ProjectStore; one transaction of 3 items."""
        tx = Transaction()
        item = ProjectItem
        tx.update(
            item(*project_key(before.id)),
            [
                item.name.set(after.name),
                item.description.set(after.description) if after.description is not None else item.description.remove(),
                item.status.set(after.status.value),
                item.progress.set(after.progress),
                item.updated_at.set(iso(after.updated_at)),
            ],
            _unchanged(before),
            on_fail=_changed(),
        )
        _require_actor(tx, actor)
        require_account_in(tx, actor.user_id)
        tx.commit()

    def change_member(self, change: MemberChange) -> None:
        """See ProjectStore; one transaction of 5 to 8 items."""
        project, actor, before, after = change.project, change.actor, change.before, change.after
        subject = before or after
        assert subject is not None  # noqa: S101  a wiring error, not an input
        tx = Transaction()
        if change.owners == project.owners:
            tx.check(ProjectItem, project_key(project.id), _there(), on_fail=_changed())
        else:
            actions = [ProjectItem.owners.set(list(change.owners)), ProjectItem.updated_at.set(iso(change.at))]
            tx.update(ProjectItem(*project_key(project.id)), actions, _unchanged(project), on_fail=_changed())
        key = member_key(project.id, subject.user_id)
        if before is None:
            assert after is not None  # noqa: S101
            item = _member_item(after, request_token=change.request_token)
            tx.put(item, on_fail=AlreadyExists("The account is a member already"))
        elif after is None:
            tx.delete(MemberItem(*key), MemberItem.version == before.version, on_fail=_changed())
        else:
            actions = [MemberItem.role.set(after.role.value), MemberItem.updated_at.set(iso(change.at))]
            tx.update(MemberItem(*key), actions, MemberItem.version == before.version, on_fail=_changed())
        require_account_in(tx, actor.user_id)
        if subject.user_id != actor.user_id:
            # Of one's own membership the version was asked above, and a transaction names an item once.
            _require_actor(tx, actor)
        _keep_accounts(tx, change, subject.user_id)
        for entry in change.entries:
            record_in(tx, entry)
        tx.commit()

    # Deleting

    def begin_delete(self, project: Project, *, actor: Membership, at: datetime) -> None:
        """See ProjectStore; one transaction of 3 items and one an owner."""
        tx, stamp = Transaction(), iso(at)
        item = ProjectItem
        tx.update(
            item(*project_key(project.id)),
            [
                item.deleting_at.set(stamp),
                item.updated_at.set(stamp),
                item.gsi1pk.set(_DELETING),
                item.gsi1sk.set(f"{stamp}#{project.id}"),
            ],
            _unchanged(project),
            on_fail=_changed(),
        )
        _require_actor(tx, actor)
        require_account_in(tx, actor.user_id)
        for owner in project.owners:
            release(tx, owner, Holding.PROJECT)
        tx.commit()

    def finish_delete(self, project_id: ProjectId, *, most: int) -> bool:
        """See ProjectStore; a Query and a transaction a hundred memberships, then one delete."""
        removed = 0
        for keys in pages(ProjectsItem, project_key(project_id).pk, prefix=_MEMBER_PREFIX):
            if removed >= most:
                return False
            tx = Transaction()
            for key in keys:
                tx.delete(MemberItem(*key))
            tx.commit()
            removed += len(keys)
        try:
            delete(ProjectItem(*project_key(project_id)), ProjectItem.deleting_at.exists())
        except ConditionFailed:  # somebody else was quicker
            return True
        return True

    def unfinished(self, *, before: datetime, limit: int) -> Sequence[ProjectId]:
        """See ProjectStore; one Query of the index."""
        old_enough = ProjectsItem.gsi1sk < iso(before)
        return query_work(ProjectItem, _DELETING, old_enough, _tombstone, limit=limit).items

    def purge_account(self, purge: Purge) -> bool:
        """Remove what is left of a deleted account's memberships and requests; True when nothing is.

        None of them owns a project: those hold their account (karma.identity.holdings).
        """
        mine = user_pk(purge.user_id)
        return empty(ProjectsItem, mine, purge, index=ProjectsItem.gsi1) and empty(ProjectsItem, mine, purge)


def _keep_accounts(tx: Transaction, change: MemberChange, user_id: UserId) -> None:
    """Let the project hold a new owner's account, let go of a former one's, and ask for a new member's."""
    owned = change.before is not None and change.before.role is ProjectRole.OWNER
    owns = change.after is not None and change.after.role is ProjectRole.OWNER
    if owns and not owned:
        hold(tx, user_id, Holding.PROJECT)
    elif owned and not owns:
        release(tx, user_id, Holding.PROJECT)
    elif change.before is None:
        require_account_in(tx, user_id)


def _require_actor(tx: Transaction, actor: Membership) -> None:
    """Let a transaction fail unless the actor still has the role that was read."""
    key = member_key(actor.project_id, actor.user_id)
    tx.check(MemberItem, key, MemberItem.role == actor.role.value, on_fail=_changed())


def _there() -> Condition:
    condition: Condition = ProjectItem.pk.exists() & ProjectItem.deleting_at.does_not_exist()
    return condition


def _unchanged(project: Project) -> Condition:
    condition: Condition = (ProjectItem.version == project.version) & ProjectItem.deleting_at.does_not_exist()
    return condition


def _changed() -> ProjectChanged:
    return ProjectChanged("The project was changed by another request; read it again")


def _rows(items: Sequence[ProjectsItem], limit: int) -> Rows:
    members = [_member(item) for item in items if isinstance(item, MemberItem)]
    return Rows(members[:limit], len(members) > limit)


def _tombstone(item: ProjectItem) -> ProjectId | None:
    project_id = ProjectId(item.project_id)
    return project_id if item.deleting_at and item.key == project_key(project_id) else None


def _project_item(project: Project) -> ProjectItem:
    values: dict[str, Any] = {
        "project_id": project.id,
        "name": project.name,
        "description": project.description,
        "status": project.status.value,
        "progress": project.progress,
        "owners": list(project.owners),
    }
    return ProjectItem(
        *project_key(project.id), **values, created_at=iso(project.created_at), updated_at=iso(project.updated_at)
    )


def _project(item: ProjectItem) -> Project:
    return Project(
        id=ProjectId(item.project_id),
        name=item.name,
        description=item.description,
        status=ProjectStatus(item.status),
        progress=int(item.progress),
        owners=tuple(UserId(owner) for owner in item.owners),
        deleting=item.deleting_at is not None,
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.version),
    )


def _member_item(member: Membership, *, request_token: str) -> MemberItem:
    joined = iso(member.joined_at)
    return MemberItem(
        *member_key(member.project_id, member.user_id),
        project_id=member.project_id,
        user_id=member.user_id,
        role=member.role.value,
        request_token=request_token or None,
        created_at=joined,
        updated_at=joined,
        gsi1pk=user_pk(member.user_id),
        gsi1sk=f"{_PROJECT_PREFIX}{member.project_id}",
    )


def _member(item: MemberItem) -> Membership:
    return Membership(
        project_id=ProjectId(item.project_id),
        user_id=UserId(item.user_id),
        role=ProjectRole(item.role),
        joined_at=parse_iso(item.created_at or ""),
        version=int(item.version),
    )

"""Conditions of writes to projects, memberships and invitations, and the error of one that does not hold."""

from __future__ import annotations

from datetime import datetime

from pynamodb.expressions.condition import Condition

from karma.core.clock import iso
from karma.core.dynamo.transaction import Transaction
from karma.projects.domain import Membership, Project, ProjectChanged
from karma.projects.repository.items import InvitationItem, MemberItem, ProjectItem, member_key


def changed() -> ProjectChanged:
    """Return the error of a write whose project, member or role is not as it was read."""
    return ProjectChanged("The project was changed by another request; read it again")


def there() -> Condition:
    """Return the condition that a project exists and is not being deleted."""
    condition: Condition = ProjectItem.pk.exists() & ProjectItem.deleting_at.does_not_exist()
    return condition


def same_owners(project: Project) -> Condition:
    """Return the condition that a project exists and has the owners that were read."""
    condition: Condition = there() & (ProjectItem.owners == list(project.owners))
    return condition


def unchanged(project: Project) -> Condition:
    """Return the condition that a project is as it was read, and is not being deleted."""
    condition: Condition = (ProjectItem.version == project.version) & ProjectItem.deleting_at.does_not_exist()
    return condition


def require_actor(tx: Transaction, actor: Membership) -> None:
    """Add the condition that the actor still has the role that was read."""
    key = member_key(actor.project_id, actor.user_id)
    tx.check(MemberItem, key, MemberItem.role == actor.role.value, on_fail=changed())


def is_open(at: datetime) -> Condition:
    """Return the condition that an invitation exists and can be accepted or declined at a moment."""
    item = InvitationItem
    condition: Condition = item.pk.exists() & item.declined_at.does_not_exist() & (item.valid_until > iso(at))
    return condition

"""Seats that memberships take in the plan of the owner who pays: how they are released, and move to another plan."""

from __future__ import annotations

from collections.abc import Sequence

from karma.billing.allowances import Metric, granted
from karma.billing.transactional import give_seats_back, take_seat
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.projects.domain import Membership, Project, ProjectChanged
from karma.projects.repository.conditions import changed, same_owners
from karma.projects.repository.items import MemberItem, ProjectItem, member_key, project_key


def end_memberships(members: Sequence[Membership]) -> bool:
    """Remove memberships as they were read, with their seats; return False and remove none when one has changed."""
    tx = Transaction()
    for each in members:
        tx.delete(MemberItem(*member_key(each.project_id, each.user_id)), MemberItem.version == each.version)
    try:
        end_seats_of(tx, members)
        tx.commit()
    except (ConditionFailed, ProjectChanged):
        return False
    return True


def end_seats_of(tx: Transaction, members: Sequence[Membership]) -> None:
    """Add the release of seats to a transaction that ends memberships; it fails with ProjectChanged if one changes."""
    seated = [(each.seat_of, each.user_id) for each in members if each.seat_of is not None]
    give_seats_back(tx, seated, on_fail=changed())


def move_seat(project: Project, member: Membership) -> None:
    """Move one member's seat to the plan of the owner who pays, or release it if the member is that owner.

    Raises:
        ProjectChanged: the project's owners, the membership or a seat is not as it was read.
    """
    payer, item = project.payer_of(member.user_id), MemberItem
    tx = Transaction()
    tx.check(ProjectItem, project_key(project.id), same_owners(project), on_fail=changed())
    tx.update(
        item(*member_key(project.id, member.user_id)),
        [item.seat_of.set(payer) if payer is not None else item.seat_of.remove()],
        item.version == member.version,
        on_fail=changed(),
    )
    end_seats_of(tx, [member])
    if payer is not None:
        take_seat(tx, granted(payer, Metric.SEATS), member.user_id, on_fail=changed())
    tx.commit()

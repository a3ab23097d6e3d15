from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Request
from starlette.responses import Response

from api.services import projects
from karma.audit.domain import Source
from karma.core.answers import AcceptedData
from karma.http.access import RequestSource, permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import Cursor, Limit, Offset, PageNumber, Place, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity import permissions
from karma.identity.domain import Caller
from karma.projects.answers import (
    InvitationData,
    InvitationListData,
    MemberData,
    MemberListData,
    ProjectData,
    ProjectListData,
    ReceivedInvitationListData,
    invitation_view,
    member_view,
    project_view,
    received_invitation_view,
)
from karma.projects.schemas import ChangeMemberRequest, ChangeProjectRequest, CreateProjectRequest, InviteRequest
from karma.projects.service import NewProject, PageQuery, Seen

router = Router("projects")

Reader = Annotated[Caller, permit("project:read")]
Writer = Annotated[Caller, permit("project:write")]
Answerer = Annotated[Caller, permit("membership:write")]
"""A caller who decides about their own membership in a project, whatever the role of the account."""


def _finder(caller: Caller) -> Callable[[str], object]:
    return lambda made: projects.service().get(caller.user_id, made)


@router.post("/projects", idempotent=True, status_code=201, responses=answers(status=201, errors=(404, 409)))
async def create_project(request: Request, body: CreateProjectRequest, caller: Writer) -> Answer[ProjectData]:
    """Create a project; the caller becomes its owner, and cannot delete the account while they are."""

    def create() -> Outcome[ProjectData]:
        key = idempotency_key(request, caller)
        new = NewProject(**body.model_dump())
        seen = projects.service().create(caller.user_id, new, idempotency_key=key)
        return Outcome(status=201, data=_data(seen), made_id=seen.project.id)

    return await once(request, caller, create, find=_finder(caller))


@router.get("/projects", responses=answers(errors=(400,)))
async def list_projects(
    caller: Reader,
    page: PageNumber | None = None,
    page_size: Limit | None = None,
    limit: Limit | None = None,
    offset: Offset | None = None,
    cursor: Cursor | None = None,
    sort: Literal["created_at"] = "created_at",
    order: Literal["asc", "desc"] = "desc",
) -> Answer[ProjectListData]:
    """List the projects that the caller is a member of, by page, by offset, or by the last `next_cursor`."""
    scope = scope_of("projects", caller.user_id, sort, order)
    place = Place.of(scope, page=page, page_size=page_size, limit=limit, offset=offset, cursor=cursor)
    query = PageQuery(limit=place.size, offset=place.offset, after=place.after_id, newest_first=order == "desc")
    found = projects.service().list(caller.user_id, query)
    data: ProjectListData = {
        "projects": [project_view(seen.project, seen.role) for seen in found.projects],
        "total": found.total,
        "total_capped": found.total_capped,
        **place.told({"id": found.next_after}),
    }
    return ok(data)


@router.get("/projects/{project_id}", responses=answers(etag=True, errors=(404,)))
async def get_project(project_id: str, caller: Reader) -> Answer[ProjectData]:
    """Show a project to its members; the ETag is its version."""
    return _project(projects.service().get(caller.user_id, project_id))


@router.patch("/projects/{project_id}", responses=answers(etag=True, errors=(403, 404, 409)))
async def change_project(
    project_id: str, body: ChangeProjectRequest, caller: Writer, if_match: IfMatch = None
) -> Answer[ProjectData]:
    """Change name, description, status or progress; for owners, administrators and members of the project.

    With `version` or If-Match only if nobody else has changed it since.
    """
    given = body.model_dump(exclude_unset=True, exclude={"version"})
    version = expected_version(if_match, body.version)
    return _project(projects.service().change(caller.user_id, project_id, given, version=version))


@router.delete(
    "/projects/{project_id}", limit="costly", status_code=204, responses=answers(status=204, errors=(403, 404, 409))
)
async def delete_project(project_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a project and its memberships; for its owners."""
    projects.service().delete(caller.user_id, project_id, version=expected_version(if_match))
    return no_content()


@router.get("/projects/{project_id}/members", responses=answers(errors=(400, 404)))
async def list_members(
    project_id: str,
    caller: Reader,
    page: PageNumber | None = None,
    page_size: Limit | None = None,
    limit: Limit | None = None,
    offset: Offset | None = None,
    cursor: Cursor | None = None,
) -> Answer[MemberListData]:
    """List a project's members, the oldest account first, by page, by offset, or by the last `next_cursor`."""
    scope = scope_of("members", caller.user_id, project_id)
    place = Place.of(scope, page=page, page_size=page_size, limit=limit, offset=offset, cursor=cursor)
    query = PageQuery(limit=place.size, offset=place.offset, after=place.after_id, newest_first=False)
    found = projects.members().list(caller.user_id, project_id, query)
    data: MemberListData = {
        "members": [member_view(member) for member in found.members],
        "total": found.total,
        "total_capped": found.total_capped,
        **place.told({"id": found.next_after}),
    }
    return ok(data)


_Invited = answers(status=201, errors=(402, 403, 404, 409)) | answers(status=202)


@router.post("/projects/{project_id}/invitations", idempotent=True, limit="member", status_code=201, responses=_Invited)
async def invite(
    request: Request, project_id: str, body: InviteRequest, caller: Writer, source: RequestSource
) -> Answer[InvitationData] | Answer[AcceptedData]:
    """Invite an account by `user_id` (201), or whoever proves an `email` (202); for 14 days.

    They become a member when they accept. Owners offer any role, ownership to members too; administrators of the
    project offer the roles member and viewer. A repeat replaces the invitation; who declined is not invited again until
    the 14 days are over (409 INVITATION_DECLINED). An address may be anybody's, or nobody's yet: the answer says only
    whether a member of
    the project has verified it (409 ALREADY_EXISTS).
    """
    return await _invite(request, project_id, body, caller, source)


@router.post(
    "/projects/{project_id}/members",
    idempotent=True,
    operation="/projects/{project_id}/invitations",
    limit="member",
    status_code=201,
    responses=_Invited,
)
async def add_member(
    request: Request, project_id: str, body: InviteRequest, caller: Writer, source: RequestSource
) -> Answer[InvitationData] | Answer[AcceptedData]:
    """Invite somebody to become a member: the same as `POST /projects/{project_id}/invitations`."""
    return await _invite(request, project_id, body, caller, source)


async def _invite(
    request: Request, project_id: str, body: InviteRequest, caller: Caller, source: Source
) -> Answer[InvitationData] | Answer[AcceptedData]:
    def ask_account() -> Outcome[InvitationData]:
        made = projects.invitations().invite(caller.user_id, project_id, body.user_id or "", body.role, source=source)
        return Outcome(status=201, data={"invitation": invitation_view(made)}, made_id=project_id)

    def ask_address() -> Outcome[AcceptedData]:
        projects.invitations().invite_by_email(caller, project_id, body.email or "", body.role, source=source)
        return Outcome(status=202, data={"accepted": True}, made_id=project_id)

    # An invitation ends by being answered; what was asked stays asked as long as there is the project.
    if body.email is None:
        return await once(request, caller, ask_account, find=_finder(caller))
    return await once(request, caller, ask_address, find=_finder(caller))


@router.get("/projects/{project_id}/invitations", responses=answers(errors=(403, 404)))
async def list_invitations(project_id: str, caller: Reader) -> Answer[InvitationListData]:
    """List a project's invitations of the last 14 days that nobody has accepted; for its owners and administrators."""
    found = projects.invitations().list(caller.user_id, project_id)
    return ok({"invitations": [invitation_view(each) for each in found], "total": len(found)})


@router.delete(
    "/projects/{project_id}/invitations/{invitation_id}",
    status_code=204,
    responses=answers(status=204, errors=(403, 404)),
)
async def withdraw_invitation(project_id: str, invitation_id: str, caller: Writer) -> Response:
    """Withdraw an invitation; for those who may invite for its role."""
    projects.invitations().withdraw(caller.user_id, project_id, invitation_id)
    return no_content()


@router.get("/invitations", responses=answers())
async def my_invitations(caller: Reader) -> Answer[ReceivedInvitationListData]:
    """List the open invitations to the caller, and to the caller's address once that is verified; newest first."""
    found = projects.invitations().received(caller.user_id)
    shown = [received_invitation_view(each.invitation, each.project) for each in found]
    return ok({"invitations": shown, "total": len(shown)})


@router.post(
    "/projects/{project_id}/invitations/accept", limit="member", responses=answers(etag=True, errors=(402, 404, 409))
)
async def accept_invitation(project_id: str, caller: Answerer, source: RequestSource) -> Answer[MemberData]:
    """Accept an invitation; whoever invited must still be allowed to. A repeat changes nothing.

    It takes a seat in the plan of the project's `owner_id`, unless the caller has one there by another project; when
    none is free (402), the invitation stays.
    """
    member = projects.invitations().accept(caller.user_id, project_id, source=source)
    return ok({"member": member_view(member)}, headers=etag(member.version))


@router.post(
    "/projects/{project_id}/invitations/decline",
    limit="member",
    status_code=204,
    responses=answers(status=204, errors=(404,)),
)
async def decline_invitation(project_id: str, caller: Answerer, source: RequestSource) -> Response:
    """Decline an invitation; until it expires the project cannot invite the caller again."""
    projects.invitations().decline(caller.user_id, project_id, source=source)
    return no_content()


@router.post(
    "/projects/{project_id}/leave", limit="member", status_code=204, responses=answers(status=204, errors=(404, 409))
)
async def leave_project(project_id: str, caller: Answerer, source: RequestSource) -> Response:
    """End the caller's own membership; the last owner makes another one first, or deletes it (409 LAST_OWNER).

    A last owner who never agreed to be one, or whose account may only read, can always leave: the project is then
    deleted.
    """
    may_hand_over = permissions.allows(caller.role, "project:write", None)
    projects.members().leave(caller.user_id, project_id, may_hand_over=may_hand_over, source=source)
    return no_content()


@router.patch("/projects/{project_id}/members/{user_id}", responses=answers(etag=True, errors=(403, 404, 409)))
async def change_member(
    project_id: str,
    user_id: str,
    body: ChangeMemberRequest,
    caller: Writer,
    source: RequestSource,
    if_match: IfMatch = None,
) -> Answer[MemberData]:
    """Give a member another role; for the project's owners. The last owner stays one (409 LAST_OWNER).

    Ownership is not given but offered, by an invitation (409 CONSENT_NEEDED).
    """
    member = projects.members().change_role(
        caller.user_id,
        project_id,
        user_id,
        body.role,
        version=expected_version(if_match, body.version),
        source=source,
    )
    return ok({"member": member_view(member)}, headers=etag(member.version))


@router.delete(
    "/projects/{project_id}/members/{user_id}",
    status_code=204,
    responses=answers(status=204, errors=(403, 404, 409)),
)
async def remove_member(
    project_id: str, user_id: str, caller: Writer, source: RequestSource, if_match: IfMatch = None
) -> Response:
    """Remove a member, or leave the project oneself; the last owner cannot (409 LAST_OWNER).

    Owners remove anybody, administrators of the project its members and viewers.
    """
    projects.members().remove(caller.user_id, project_id, user_id, version=expected_version(if_match), source=source)
    return no_content()


def _project(seen: Seen) -> Answer[ProjectData]:
    return ok(_data(seen), headers=etag(seen.project.version))


def _data(seen: Seen) -> ProjectData:
    return {"project": project_view(seen.project, seen.role)}

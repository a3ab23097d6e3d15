from __future__ import annotations

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.services import devices
from karma.http.access import permit
from karma.http.idempotency import Outcome, once
from karma.http.openapi import answers
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.projects.answers import DeviceShareData, DeviceShareListData, device_share_view
from karma.projects.schemas import ShowDeviceRequest

router = Router("projects")

Reader = Annotated[Caller, permit("device:read")]
Owner = Annotated[Caller, permit("device:write")]
Writer = Annotated[Caller, permit("project:write")]


@router.post(
    "/projects/{project_id}/devices",
    idempotent=True,
    limit="member",
    status_code=201,
    responses=answers(status=201, errors=(403, 404, 409)),
)
async def show_device(
    request: Request, project_id: str, body: ShowDeviceRequest, caller: Owner
) -> Answer[DeviceShareData]:
    """Let a project show one of the caller's devices to its members; a repeat renews that.

    For owners, administrators and members of the project. Viewers read the device, its telemetry and commands; the
    others send commands, too. It stays the caller's, and is shown as long as the caller is a member.
    """

    def share() -> Outcome[DeviceShareData]:
        made = devices.shared().share(caller.user_id, project_id, body.device_id)
        return Outcome(status=201, data={"share": device_share_view(made)}, made_id=made.device_id)

    def find(made: str) -> object:
        return devices.of_projects().require(caller.user_id, project_id, made)

    return await once(request, caller, share, find=find)


@router.delete(
    "/projects/{project_id}/devices/{device_id}",
    limit="member",
    status_code=204,
    responses=answers(status=204, errors=(403, 404)),
)
async def hide_device(project_id: str, device_id: str, caller: Writer) -> Response:
    """Take a device out of a project; for its owner, and for the project's owners and administrators."""
    devices.of_projects().unshare(caller.user_id, project_id, device_id)
    return no_content()


@router.get("/devices/{device_id}/projects", responses=answers(errors=(404,)))
async def list_projects_of_device(device_id: str, caller: Reader) -> Answer[DeviceShareListData]:
    """List the projects that show a device of the caller's."""
    current = devices.service().get(caller.user_id, device_id)
    found = devices.of_projects().of_device(caller.user_id, current.device.id)
    return ok({"shares": [device_share_view(each) for each in found], "total": len(found)})

from __future__ import annotations

from typing import Annotated

from api.services import devices
from karma.core.ids import UserId
from karma.core.paging import shown
from karma.devices.schemas import ChangeSettingsBody
from karma.devices.settings_answers import (
    SettingsChangeListData,
    SettingsData,
    settings_change_view,
    settings_view,
)
from karma.devices.shadow import Shadow
from karma.http.access import RequestSource, permit
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("devices")

Reader = Annotated[Caller, permit("device:read")]
Controller = Annotated[Caller, permit("device:control")]


@router.get("/devices/{device_id}/settings", responses=answers(etag=True, errors=(404, 503)))
async def get_settings(device_id: str, caller: Reader) -> Answer[SettingsData]:
    """Show what is wanted of a device and what it reports, with what of the one is not the other."""

    def use(owner: UserId) -> Shadow:
        return devices.device_settings().get(owner, device_id)

    return _settings(devices.shared().to_read(caller.user_id, device_id, use))


@router.patch(
    "/devices/{device_id}/settings",
    limit="command",
    responses=answers(etag=True, errors=(403, 404, 409, 503)),
)
async def change_settings(
    device_id: str,
    body: ChangeSettingsBody,
    caller: Controller,
    source: RequestSource,
    if_match: IfMatch = None,
) -> Answer[SettingsData]:
    """Change what is wanted of a device by a merge patch: null removes a setting, objects are merged.

    With `version` or If-Match only if neither anybody nor the device has changed the settings since. A device that is
    away learns of it when it connects.
    """
    from karma.devices.settings import Asker  # local: other routes of devices do without

    version, by = expected_version(if_match, body.version), Asker(user_id=caller.user_id, source=source)

    def use(owner: UserId) -> Shadow:
        return devices.device_settings().change(owner, device_id, body.desired, by=by, version=version)

    return _settings(devices.shared().to_control(caller.user_id, device_id, use))


@router.get("/devices/{device_id}/settings/changes", responses=answers(errors=(400, 404)))
async def list_settings_changes(
    device_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[SettingsChangeListData]:
    """List who has changed what is wanted of a device, newest first, of 90 days."""
    scope = scope_of("settings-changes", caller.user_id, device_id)
    after = str(position(cursor, scope).get("id", ""))
    found, following = devices.shared().to_read(
        caller.user_id,
        device_id,
        lambda owner: devices.device_settings().changes(owner, device_id, limit=limit, after=after),
    )
    kept, written = shown(found, settings_change_view)
    more = following if len(kept) == len(found) else kept[-1].id
    return ok({"changes": written, "limit": limit, "next_cursor": next_cursor({"id": more}, scope)})


def _settings(shadow: Shadow) -> Answer[SettingsData]:
    return ok({"settings": settings_view(shadow)}, headers=etag(shadow.version))

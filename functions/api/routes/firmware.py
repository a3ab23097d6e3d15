from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from api.services import firmware
from karma.firmware.answers import (
    ReleaseData,
    ReleaseListData,
    RolloutData,
    RolloutListData,
    RolloutProgressData,
    TargetListData,
    UploadData,
    progress_view,
    release_view,
    rollout_view,
    target_view,
    upload_view,
)
from karma.firmware.domain import Release, Rollout, RolloutState, TargetState
from karma.firmware.schemas import (
    CreateReleaseBody,
    CreateRolloutBody,
    FirmwareRollbackBody,
    MoveRolloutBody,
    PublishReleaseBody,
    RetryRolloutBody,
)
from karma.firmware.service import SignedManifest
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("firmware")

Reader = Annotated[Caller, permit("firmware:read")]
Writer = Annotated[Caller, permit("firmware:write")]

_RELEASES = "/firmware/releases"
_ROLLOUTS = "/firmware/rollouts"


@router.post(_RELEASES, idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def create_firmware_release(request: Request, body: CreateReleaseBody, caller: Writer) -> Answer[ReleaseData]:
    """Create a draft of the firmware that a signed manifest names; its bytes are uploaded then."""

    def create() -> Outcome[ReleaseData]:
        key = idempotency_key(request, caller)
        signed = SignedManifest(body.manifest, body.signature, body.public_key)
        made = firmware.releases().create(caller.user_id, signed, idempotency_key=key)
        return Outcome(status=201, data={"release": release_view(made)}, made_id=made.id)

    return await once(request, caller, create, find=lambda made: firmware.releases().get(caller.user_id, made))


@router.get(_RELEASES, responses=answers(errors=(400,)))
async def list_firmware_releases(
    caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[ReleaseListData]:
    """List the caller's releases, newest first."""
    scope = scope_of("firmware-releases", caller.user_id)
    below = position(cursor, scope, of=str).get("below", "")
    page = firmware.releases().page(caller.user_id, below=below, limit=limit)
    data: ReleaseListData = {
        "releases": [release_view(each) for each in page.releases],
        "limit": limit,
        "next_cursor": next_cursor({"below": page.next_below}, scope),
    }
    return ok(data)


@router.get(f"{_RELEASES}/{{release_id}}", responses=answers(etag=True, errors=(404,)))
async def get_firmware_release(release_id: str, caller: Reader) -> Answer[ReleaseData]:
    """Show a release; the ETag is its version."""
    return _release(firmware.releases().get(caller.user_id, release_id))


@router.post(f"{_RELEASES}/{{release_id}}/upload", responses=answers(errors=(404, 409)))
async def sign_firmware_upload(release_id: str, caller: Writer) -> Answer[UploadData]:
    """Sign the PUT that uploads the bytes of a draft, for 15 minutes."""
    return ok({"upload": upload_view(firmware.releases().upload(caller.user_id, release_id))})


@router.post(f"{_RELEASES}/{{release_id}}/publish", limit="costly", responses=answers(etag=True, errors=(404, 409)))
async def publish_firmware_release(
    release_id: str, caller: Writer, body: PublishReleaseBody | None = None, if_match: IfMatch = None
) -> Answer[ReleaseData]:
    """Publish a draft for good, after its bytes were compared with the manifest; of a published one nothing happens."""
    version = expected_version(if_match, body.version if body else None)
    return _release(firmware.releases().publish(caller.user_id, release_id, version=version))


@router.delete(f"{_RELEASES}/{{release_id}}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_firmware_release(release_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a release that no unfinished rollout brings to devices, with its bytes."""
    firmware.releases().delete(caller.user_id, release_id, version=expected_version(if_match))
    return no_content()


@router.post(_ROLLOUTS, idempotent=True, status_code=201, responses=answers(status=201, errors=(404, 409)))
async def create_firmware_rollout(request: Request, body: CreateRolloutBody, caller: Writer) -> Answer[RolloutData]:
    """Bring a published release to devices, in waves; those that report its version are left out."""

    def create() -> Outcome[RolloutData]:
        key = idempotency_key(request, caller)
        made = firmware.rollouts().create(caller.user_id, body.release_id, body.plan(), idempotency_key=key)
        return Outcome(status=201, data={"rollout": rollout_view(made)}, made_id=made.id)

    return await once(request, caller, create, find=lambda made: firmware.rollouts().get(caller.user_id, made))


@router.get(_ROLLOUTS, responses=answers(errors=(400,)))
async def list_firmware_rollouts(
    caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[RolloutListData]:
    """List the caller's rollouts of the last 180 days, newest first."""
    scope = scope_of("firmware-rollouts", caller.user_id)
    below = position(cursor, scope, of=str).get("below", "")
    page = firmware.rollouts().page(caller.user_id, below=below, limit=limit)
    data: RolloutListData = {
        "rollouts": [rollout_view(each) for each in page.rollouts],
        "limit": limit,
        "next_cursor": next_cursor({"below": page.next_below}, scope),
    }
    return ok(data)


@router.get(f"{_ROLLOUTS}/{{rollout_id}}", responses=answers(etag=True, errors=(404,)))
async def get_firmware_rollout(rollout_id: str, caller: Reader) -> Answer[RolloutProgressData]:
    """Show a rollout with the numbers of its devices, as of the last minute; the ETag is its version."""
    rollout = firmware.rollouts().get(caller.user_id, rollout_id)
    batches = firmware.rollouts().batches(rollout)
    data: RolloutProgressData = {"rollout": rollout_view(rollout), "progress": progress_view(batches)}
    return ok(data, headers=etag(rollout.version))


@router.get(f"{_ROLLOUTS}/{{rollout_id}}/devices", responses=answers(errors=(400, 404)))
async def list_devices_of_firmware_rollout(
    rollout_id: str,
    caller: Reader,
    state: Annotated[TargetState | None, Query(description="State of the devices that are listed")] = None,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[TargetListData]:
    """List the devices of a rollout in the order in which they are offered the release, as of the last minute."""
    rollout = firmware.rollouts().get(caller.user_id, rollout_id)
    scope = scope_of("firmware-devices", rollout.id, state)
    after = position(cursor, scope, of=int).get("after", 0)
    found = [(batch, each) for batch in firmware.rollouts().batches(rollout) for each in batch.targets]
    places = [place for place, (_, each) in enumerate(found) if place >= after and state in (None, each.state)]
    data: TargetListData = {
        "devices": [target_view(*found[place]) for place in places[:limit]],
        "limit": limit,
        "next_cursor": next_cursor({"after": places[limit] if len(places) > limit else None}, scope),
    }
    return ok(data)


@router.post(f"{_ROLLOUTS}/{{rollout_id}}/pause", responses=answers(etag=True, errors=(404, 409)))
async def pause_firmware_rollout(
    rollout_id: str, caller: Writer, body: MoveRolloutBody | None = None, if_match: IfMatch = None
) -> Answer[RolloutData]:
    """Offer the release to nobody else; devices that have begun go on to their end."""
    return _moved(caller, rollout_id, RolloutState.PAUSED, body, if_match)


@router.post(f"{_ROLLOUTS}/{{rollout_id}}/resume", responses=answers(etag=True, errors=(404, 409)))
async def resume_firmware_rollout(
    rollout_id: str, caller: Writer, body: MoveRolloutBody | None = None, if_match: IfMatch = None
) -> Answer[RolloutData]:
    """Go on with a paused or aborted rollout; the failures that aborted it are forgiven, and not tried again."""
    return _moved(caller, rollout_id, RolloutState.RUNNING, body, if_match)


@router.post(f"{_ROLLOUTS}/{{rollout_id}}/cancel", responses=answers(etag=True, errors=(404, 409)))
async def cancel_firmware_rollout(
    rollout_id: str, caller: Writer, body: MoveRolloutBody | None = None, if_match: IfMatch = None
) -> Answer[RolloutData]:
    """End a rollout; devices that have begun go on to their end."""
    return _moved(caller, rollout_id, RolloutState.CANCELLED, body, if_match)


@router.post(f"{_ROLLOUTS}/{{rollout_id}}/retry", responses=answers(etag=True, errors=(404, 409)))
async def retry_firmware_rollout(
    rollout_id: str, caller: Writer, body: RetryRolloutBody | None = None, if_match: IfMatch = None
) -> Answer[RolloutData]:
    """Try devices that have failed once more: those that are named, or all of them; one that is being tried stays."""
    version = expected_version(if_match, body.version if body else None)
    named = body.named() if body else ()
    rollout = firmware.rollouts().retry(caller.user_id, rollout_id, named, version=version)
    return ok({"rollout": rollout_view(rollout)}, headers=etag(rollout.version))


@router.post(
    f"{_ROLLOUTS}/{{rollout_id}}/rollback",
    idempotent=True,
    status_code=201,
    responses=answers(status=201, errors=(404, 409)),
)
async def roll_back_firmware_rollout(
    request: Request, rollout_id: str, body: FirmwareRollbackBody, caller: Writer
) -> Answer[RolloutData]:
    """Cancel a rollout, and bring an earlier release to its devices that have its own, or may have it."""

    def create() -> Outcome[RolloutData]:
        key = idempotency_key(request, caller)
        made = firmware.rollouts().roll_back(caller.user_id, rollout_id, body.release_id, idempotency_key=key)
        return Outcome(status=201, data={"rollout": rollout_view(made)}, made_id=made.id)

    return await once(request, caller, create, find=lambda made: firmware.rollouts().get(caller.user_id, made))


def _release(release: Release) -> Answer[ReleaseData]:
    return ok({"release": release_view(release)}, headers=etag(release.version))


def _moved(
    caller: Caller, rollout_id: str, to: RolloutState, body: MoveRolloutBody | None, if_match: IfMatch
) -> Answer[RolloutData]:
    version = expected_version(if_match, body.version if body else None)
    rollout: Rollout = firmware.rollouts().move(caller.user_id, rollout_id, to, version=version)
    return ok({"rollout": rollout_view(rollout)}, headers=etag(rollout.version))

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Query, Request
from pydantic import AfterValidator
from starlette.responses import Response

from api.services import billing, files, process
from karma.files.answers import (
    DirectoryData,
    DownloadData,
    FileData,
    FileListData,
    FileView,
    MadeShareData,
    PartsData,
    ShareListData,
    UploadIntentData,
    file_view,
    part_view,
    share_view,
    upload_view,
)
from karma.files.domain import DeviceFile, clean_path
from karma.files.schemas import (
    ChangeFileRequest,
    CreateDirectoryRequest,
    CreateFileRequest,
    MoveDirectoryRequest,
    PartsRequest,
    ShareRequest,
)
from karma.files.service import FileQuery
from karma.files.trees.answers import TreeChangeData, tree_change_view
from karma.files.uploads import NewFile, expires_at
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import PREFIX, Router
from karma.identity.domain import Caller

router = Router("files")

Reader = Annotated[Caller, permit("file:read")]
Writer = Annotated[Caller, permit("file:write")]

_FILE = "/devices/{device_id}/files/{file_id}"


def _finder(caller: Caller, device_id: str) -> Callable[[str], object]:
    return lambda made: files.service().get(caller.user_id, device_id, made)


def _view(file: DeviceFile) -> FileView:
    return file_view(file, thumbnail_url=files.previews().thumbnail_url(file))


@router.post(
    "/devices/{device_id}/files",
    idempotent=True,
    status_code=201,
    responses=answers(status=201, errors=(402, 404, 409)),
)
async def create_file(
    request: Request, device_id: str, body: CreateFileRequest, caller: Writer
) -> Answer[UploadIntentData]:
    """Begin an upload: name and size are reserved for 24 hours, the bytes are sent to the URLs that `parts` gives."""

    def create() -> Outcome[UploadIntentData]:
        file = files.uploads().create(
            caller.user_id,
            device_id,
            NewFile(**body.model_dump()),
            allowance=billing.allowances().of(caller.user_id),
            idempotency_key=idempotency_key(request, caller),
        )
        data: UploadIntentData = {"file_id": file.id, "file": file_view(file), "upload": upload_view(file)}
        return Outcome(status=201, data=data, made_id=file.id)

    return await once(request, caller, create, find=_finder(caller, device_id))


@router.post(f"{_FILE}/parts", responses=answers(errors=(404, 409, 503)))
async def sign_parts(device_id: str, file_id: str, body: PartsRequest, caller: Writer) -> Answer[PartsData]:
    """Give a URL for each part: a PUT of exactly its bytes and headers, for 15 minutes, as often as needed."""
    urls = files.uploads().parts(caller.user_id, device_id, file_id, body.part_numbers, body.checksums or {})
    return ok({"parts": [part_view(url) for url in urls], "expires_at": expires_at(process.clock())})


@router.post(f"{_FILE}/complete", status_code=202, responses=answers(status=202, errors=(404, 409, 503)))
async def complete_file(device_id: str, file_id: str, caller: Writer) -> Answer[FileData]:
    """End an upload; the file is `verifying`, then `ready` and listed, or `rejected` with the reason."""
    return ok({"file": file_view(files.uploads().complete(caller.user_id, device_id, file_id))}, 202)


@router.get("/devices/{device_id}/files", responses=answers(errors=(400, 404, 409)))
async def list_files(
    device_id: str,
    caller: Reader,
    path: Annotated[Annotated[str, AfterValidator(clean_path)] | None, Query(max_length=4096)] = None,
    type: Annotated[str | None, Query(max_length=50)] = None,  # noqa: A002  its name in the query
    category: Annotated[str | None, Query(max_length=50)] = None,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[FileListData]:
    """List a device's files and directories, newest first; with `path` one directory's, by name (404: there is none).

    Totals count up to 1,000. Filters look at 1,000 entries a page, so that one may hold fewer than `limit`.
    """
    scope = scope_of("files", caller.user_id, device_id, type, category, path)
    query = FileQuery(
        limit=limit,
        path=path,
        type=type,
        category=category,
        after=position(cursor, scope) or None,
    )
    found = files.service().list(caller.user_id, device_id, query)
    return ok(
        {
            "files": [_view(file) for file in found.files],
            "total": found.total,
            "total_capped": found.total_capped,
            "limit": limit,
            "next_cursor": next_cursor(found.next_position, scope),
        }
    )


@router.post(
    "/devices/{device_id}/directories",
    idempotent=True,
    status_code=201,
    responses=answers(status=201, errors=(404, 409)),
)
async def create_directory(
    request: Request, device_id: str, body: CreateDirectoryRequest, caller: Writer
) -> Answer[DirectoryData]:
    """Make a directory, and those above it that are missing."""

    def create() -> Outcome[DirectoryData]:
        path, name = body.place()
        key = idempotency_key(request, caller)
        made = files.service().make_directory(caller.user_id, device_id, path=path, name=name, idempotency_key=key)
        return Outcome(status=201, data={"directory": file_view(made)}, made_id=made.id)

    return await once(request, caller, create, find=_finder(caller, device_id))


@router.get(_FILE, responses=answers(etag=True, errors=(404,)))
async def get_file(device_id: str, file_id: str, caller: Reader) -> Answer[FileData]:
    """Show a file in any state; the ETag is its version."""
    return _file(files.service().get(caller.user_id, device_id, file_id))


@router.patch(_FILE, responses=answers(etag=True, errors=(404, 409)))
async def change_file(
    device_id: str,
    file_id: str,
    body: ChangeFileRequest,
    caller: Writer,
    if_match: IfMatch = None,
) -> Answer[FileData]:
    """Rename, move or describe a file, or describe a directory, which `POST …/move` renames and moves."""
    changes = body.model_dump(exclude_unset=True, exclude={"version"})
    version = expected_version(if_match, body.version)
    return _file(files.service().change(caller.user_id, device_id, file_id, changes, version=version))


@router.delete(_FILE, status_code=204, responses=answers(status=204, also=(202,), errors=(404, 409)))
async def delete_file(
    device_id: str, file_id: str, caller: Writer, recursive: bool = False, if_match: IfMatch = None
) -> Answer[TreeChangeData] | Response:
    """Delete a file in any state, which also ends its upload, or an empty directory.

    A directory is not empty while a name in it is taken, also by an unfinished upload; the 409 names such an entry.
    With `recursive` a directory goes at once with all that is in it; the 202 has the work, as a repeat does.
    """
    version = expected_version(if_match)
    if recursive:
        change = files.trees().delete(caller.user_id, device_id, file_id, version=version)
        if change is not None:
            return ok({"tree_change": tree_change_view(change)}, 202)
    files.service().delete(caller.user_id, device_id, file_id, version=version)
    return no_content()


@router.post(f"{_FILE}/move", idempotent=True, status_code=202, responses=answers(status=202, errors=(404, 409)))
async def move_directory(
    request: Request, device_id: str, file_id: str, body: MoveDirectoryRequest, caller: Writer
) -> Answer[TreeChangeData]:
    """Move a directory, or give it another name, with all that is in it: in the background.

    It is seen at its new path, whole, from one moment on; `GET …/tree-changes/{tree_change_id}` tells how far it is.
    """

    def create() -> Outcome[TreeChangeData]:
        made = files.trees().move(
            caller.user_id,
            device_id,
            file_id,
            path=body.path,
            name=body.name,
            version=body.version,
            idempotency_key=idempotency_key(request, caller),
        )
        return Outcome(status=202, data={"tree_change": tree_change_view(made)}, made_id=made.key.change_id)

    return await once(request, caller, create, find=lambda made: files.trees().get(caller.user_id, device_id, made))


@router.get(f"{_FILE}/download", responses=answers(errors=(404, 409)))
async def download_file(device_id: str, file_id: str, caller: Reader) -> Answer[DownloadData]:
    """Give a URL that downloads the file as an attachment, for 15 minutes."""
    url = files.service().download_url(caller.user_id, device_id, file_id)
    return ok({"url": url, "expires_at": expires_at(process.clock())})


@router.get(f"{_FILE}/text", responses=answers(errors=(404, 409)))
async def get_file_text(device_id: str, file_id: str, caller: Reader) -> Answer[DownloadData]:
    """Give a URL that downloads the text of a document, for 15 minutes; 409 says why there is none, or none yet."""
    url = files.previews().text_url(caller.user_id, device_id, file_id)
    return ok({"url": url, "expires_at": expires_at(process.clock())})


@router.post(f"{_FILE}/share", idempotent=True, status_code=201, responses=answers(status=201, errors=(404, 409)))
async def share_file(
    request: Request, device_id: str, file_id: str, body: ShareRequest, caller: Writer
) -> Answer[MadeShareData]:
    """Make a link that downloads the file for whoever has it, a week long or until `expires_at`; it is shown once."""

    def create() -> Outcome[MadeShareData]:
        made = files.shares().create(
            caller.user_id,
            device_id,
            file_id,
            expires_at=body.expires_at,
            max_downloads=body.max_downloads,
            idempotency_key=idempotency_key(request, caller),
        )
        url = f"{process.settings().api_url}{PREFIX}/shares/{made.token}"
        data: MadeShareData = {"share": share_view(made.share), "token": made.token, "url": url}
        return Outcome(status=201, data=data, made_id=made.share.id, is_secret=True)

    def find(made: str) -> None:
        files.shares().require_made(caller.user_id, device_id, file_id, made)

    return await once(request, caller, create, find=find)


@router.get(f"{_FILE}/share", responses=answers(errors=(404,)))
async def list_shares(device_id: str, file_id: str, caller: Writer) -> Answer[ShareListData]:
    """List the links of a file that have not ended, newest first, with how often each was opened."""
    found = files.shares().list(caller.user_id, device_id, file_id)
    return ok({"shares": [share_view(share) for share in found], "total": len(found)})


@router.delete(f"{_FILE}/share/{{share_id}}", status_code=204, responses=answers(status=204, errors=(404,)))
async def revoke_share(device_id: str, file_id: str, share_id: str, caller: Writer) -> Response:
    """End a link at once; a download that has begun goes on, for up to 15 minutes."""
    files.shares().revoke(caller.user_id, device_id, file_id, share_id)
    return no_content()


@router.get("/shares/{token}", limit="public", status_code=303, responses=answers(status=303, errors=(404, 503)))
async def open_share(token: str, request: Request) -> Response:
    """Go to the download of a shared file, as an attachment; 404 for a link that ended, as for one that never was.

    HEAD counts no download, and so has no `location`.
    """
    headers = {"cache-control": "no-store", "referrer-policy": "no-referrer"}
    if request.method == "HEAD":
        files.shares().look(token)
    else:
        headers["location"] = files.shares().open(token)
    return Response(status_code=303, headers=headers)


def _file(file: DeviceFile) -> Answer[FileData]:
    return ok({"file": _view(file)}, headers=etag(file.revision))

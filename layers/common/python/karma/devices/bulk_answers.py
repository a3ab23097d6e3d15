"""Answers of the routes of bulk commands: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from pydantic import Field

from karma.core.clock import from_epoch_ms, iso
from karma.devices.answers import CommandView, command_view
from karma.devices.bulk import BulkCommand, BulkResult, BulkStatus, state_of


class BulkCommandView(TypedDict):
    """A command to many devices."""

    id: str
    command: str
    params: dict[str, Any]
    serial: bool
    tag: str | None
    schedule_id: str | None
    """Schedule whose fire made it."""
    status: BulkStatus
    total: int
    """Devices that it is for."""
    sent: int
    """Devices that were sent their command."""
    refused: int
    created_at: str
    expires_at: str


def bulk_view(bulk: BulkCommand) -> BulkCommandView:
    """Render a bulk command."""
    return {
        "id": bulk.key.bulk_id,
        "command": bulk.command,
        "params": dict(bulk.params),
        "serial": bulk.serial,
        "tag": bulk.tag,
        "schedule_id": bulk.schedule_id,
        "status": bulk.status,
        "total": bulk.total,
        "sent": bulk.sent,
        "refused": bulk.refused,
        "created_at": iso(from_epoch_ms(bulk.created_ms)),
        "expires_at": iso(from_epoch_ms(bulk.expires_ms)),
    }


class BulkCommandData(TypedDict):
    """One bulk command."""

    bulk: BulkCommandView


class BulkProgressData(TypedDict):
    """One bulk command, and what its devices have done."""

    bulk: BulkCommandView
    counts: Annotated[
        dict[str, int],
        Field(description="Devices by the status of their commands, or `waiting`, `refused`, `deleted`"),
    ]


class BulkCommandListData(TypedDict):
    """A page of bulk commands, newest first."""

    bulks: list[BulkCommandView]
    limit: int
    next_cursor: str | None


class BulkErrorView(TypedDict):
    """Reason for which a device was sent no command."""

    code: str
    message: str


class BulkResultView(TypedDict):
    """One device of a bulk command."""

    device_id: str
    status: Annotated[
        str, Field(description="Of its command; or `waiting`, `refused`, or `deleted`: with its device, since then")
    ]
    refusal: BulkErrorView | None
    command: CommandView | None


def bulk_result_view(result: BulkResult) -> BulkResultView:
    """Render what became of a device."""
    refusal, command = result.refusal, result.command
    return {
        "device_id": result.device_id,
        "status": state_of(result),
        "refusal": {"code": refusal.code, "message": refusal.message} if refusal is not None else None,
        "command": command_view(command) if command is not None else None,
    }


class BulkResultListData(TypedDict):
    """A page of a bulk command's devices, in their order."""

    results: list[BulkResultView]
    total: int
    limit: int
    next_cursor: str | None

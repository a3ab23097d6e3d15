"""Answers of the routes of tree changes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TypedDict

from karma.core.clock import from_epoch_ms, iso
from karma.files.marks import TreeChangeKind
from karma.files.trees.domain import TreeChange, TreeChangeState


class TreeChangeFailureView(TypedDict):
    """Reason for which a directory was not moved."""

    code: str
    message: str


class TreeChangeView(TypedDict):
    """A directory that is moved or deleted with all that is in it, in the background."""

    id: str
    device_id: str
    directory_id: str
    kind: TreeChangeKind
    state: TreeChangeState
    has_begun: bool
    """True: what is in the directory is seen at its new path, or nowhere; nothing stops the work any more."""
    source_path: str
    """Path of the directory itself when it was asked for."""
    target_path: str | None
    """Path that it gets; null: it is deleted."""
    total: int | None
    """Entries in it, unfinished uploads included; null until they are counted."""
    done: int
    """Entries of these that are moved, or deleted, when the work last noted it: at least every few seconds."""
    error: TreeChangeFailureView | None
    """Null unless `state` is `failed`."""
    created_at: str
    ended_at: str | None
    expires_at: str | None
    """The moment at which this is forgotten; null until the work is over."""


def tree_change_view(change: TreeChange) -> TreeChangeView:
    """Render a tree change."""
    return {
        "id": change.key.change_id,
        "device_id": change.key.device_id,
        "directory_id": change.directory_id,
        "kind": change.kind,
        "state": change.state,
        "has_begun": change.is_begun,
        "source_path": change.source,
        "target_path": change.target or None,
        "total": change.total,
        "done": change.done,
        "error": {"code": change.failure.code, "message": change.failure.message} if change.failure else None,
        "created_at": iso(from_epoch_ms(change.created_ms)),
        "ended_at": None if change.ended_ms is None else iso(from_epoch_ms(change.ended_ms)),
        "expires_at": iso(change.forget_at) if change.forget_at else None,
    }


class TreeChangeData(TypedDict):
    """One tree change."""

    tree_change: TreeChangeView


class TreeChangeListData(TypedDict):
    """A page of tree changes, newest first."""

    tree_changes: list[TreeChangeView]
    limit: int
    next_cursor: str | None

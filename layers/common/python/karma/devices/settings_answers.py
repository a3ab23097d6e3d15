"""Answers of the routes of settings: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Any, TypedDict

from karma.core.clock import from_epoch_ms, iso
from karma.core.schemas import ShownMoment
from karma.devices.shadow import ChangeState, SettingsChange, Shadow


class SettingsView(TypedDict):
    """Settings that are wanted of a device, those that it says it has, and the difference."""

    desired: dict[str, Any]
    reported: dict[str, Any]
    delta: dict[str, Any]
    """Settings that are desired and not reported so."""
    desired_at: dict[str, ShownMoment]
    """Time, in whole seconds, at which each desired setting was asked for; of an object that of its newest member."""
    reported_at: dict[str, ShownMoment]
    version: int
    """Grows with each change and each report; 0: there was none yet."""


class SettingsData(TypedDict):
    """A device's settings."""

    settings: SettingsView


class SettingsChangeView(TypedDict):
    """A change of the desired settings, or a report of the device."""

    id: str
    at: ShownMoment
    changed_by: str | None
    """Id of the user who asked; null: the device reports it."""
    patch: dict[str, Any]
    """Merge patch of what is desired, of a report of what is reported."""
    truncated: bool
    """The report is larger than what is kept of one, and `patch` is empty."""
    state: ChangeState
    """`asked` of a request that died: `desired` tells whether it has taken effect."""
    settings_version: int | None


class SettingsChangeListData(TypedDict):
    """Some changes, newest first."""

    changes: list[SettingsChangeView]
    limit: int
    next_cursor: str | None


def settings_view(shadow: Shadow) -> SettingsView:
    """Shape a device's settings."""
    return {
        "desired": dict(shadow.desired),
        "reported": dict(shadow.reported),
        "delta": dict(shadow.delta),
        "desired_at": _moments(shadow.desired_at),
        "reported_at": _moments(shadow.reported_at),
        "version": shadow.version,
    }


def settings_change_view(change: SettingsChange) -> SettingsChangeView:
    """Shape a change."""
    return {
        "id": change.id,
        "at": iso(change.at),
        "changed_by": change.changed_by,
        "patch": dict(change.patch),
        "truncated": change.is_cut,
        "state": change.state,
        "settings_version": change.settings_version,
    }


def _moments(stamps: dict[str, int]) -> dict[str, str]:
    return {name: iso(from_epoch_ms(at * 1_000)) for name, at in stamps.items()}

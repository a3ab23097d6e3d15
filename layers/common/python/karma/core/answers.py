"""Answers that are no context's: what several contexts answer alike."""

from __future__ import annotations

from typing import TypedDict


class AcceptedData(TypedDict):
    """What was asked for is done later, or was not needed."""

    accepted: bool

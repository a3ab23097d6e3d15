"""Failures of tools, whose messages are for the model."""

from __future__ import annotations

from collections.abc import Mapping

from karma.conversations.domain import CallEffect
from karma.core.errors import AppError, ValidationFailed


class ToolFailed(Exception):
    """A tool could not do its work; the message is for the model and, through it, for the user."""

    effect: CallEffect = "told"
    """Knowledge of what the call has changed."""


class NotMade(ToolFailed):
    """The call was not made, and has changed nothing."""

    effect = "none"


class OutcomeUnknown(ToolFailed):
    """The call was made, and nobody knows what became of it: it may have had its effect."""

    effect = "unknown"


class Unfinished(Exception):
    """The call has no result yet; its tool has told whoever makes it again what is missing."""


class BadArguments(NotMade):
    """The arguments are not those of the tool's declaration."""


def words_of(error: AppError) -> str:
    """Return what a model is told of a failure: where arguments are wrong, which, and why."""
    if not isinstance(error, ValidationFailed):
        return error.message
    fields = [each for each in error.details or () if isinstance(each, Mapping)]
    return "; ".join(f"{each.get('field')}: {each.get('message')}" for each in fields) or error.message

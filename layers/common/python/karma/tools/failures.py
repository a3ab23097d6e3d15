"""Failures of tools, whose messages are for the model."""

from __future__ import annotations

from collections.abc import Mapping

from karma.core.errors import AppError, ValidationFailed


class ToolFailed(Exception):
    """A tool could not do its work; the message is for the model and, through it, for the user."""


class BadArguments(ToolFailed):
    """The arguments are not those of the tool's declaration."""


def words_of(error: AppError) -> str:
    """Return what a model is told of a failure: where arguments are wrong, which, and why."""
    if not isinstance(error, ValidationFailed):
        return error.message
    fields = [each for each in error.details or () if isinstance(each, Mapping)]
    return "; ".join(f"{each.get('field')}: {each.get('message')}" for each in fields) or error.message

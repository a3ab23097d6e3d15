"""What the local environment tells the person at the terminal when it cannot go on."""

from __future__ import annotations


class LocalError(Exception):
    """Printed as one line, without a traceback; exit status 1."""


class PrerequisiteMissing(LocalError):
    """Something this machine lacks; the message says what and how to get it."""


class NotReady(LocalError):
    """A process did not answer within its deadline; the message names its log."""

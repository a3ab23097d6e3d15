"""Errors of the local environment, whose messages are printed at the terminal."""

from __future__ import annotations


class LocalError(Exception):
    """An error that is printed as one line, without a traceback; exit status 1."""


class PrerequisiteMissing(LocalError):
    """This machine lacks a program; the message says which and how to install it."""


class NotReady(LocalError):
    """A process did not answer within its deadline; the message names its log."""

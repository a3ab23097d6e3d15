"""The edge around parsers of bytes that strangers made.

A parser refuses what it knows to be wrong. What else it raises is a fault of ours that somebody's file has found: it
must not fail what only contains that file, such as a conversation with it as an earlier message, each time anew.

Parsers only compute, and domains use them: so `karma.core.observability` notes in PARSER_REPORTS how such faults are
told.

What they may do is bounded for all files of one request together: a bound for each file alone is none, since a request
has room for more than a thousand small files. Work is counted as each parser counts it. That there is none left is no
fault of a file, so that nobody may remember it as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from karma.core.errors import PARSER_REPORTS

MAX_WORK: Final = 400_000
"""Work for the files of one request: one to two seconds of a processor."""


class WorkLeft:
    """Work that parsers may still do for a request."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_WORK


_of_request: ContextVar[WorkLeft | None] = ContextVar("allowance", default=None)


@contextmanager
def parsing(parser: str, refused: type[ValueError], told: str) -> Iterator[None]:
    """Raise `refused(told)` for whatever a parser raises but `refused`; it is logged, and counted as `ParserFailed`."""
    try:
        yield
    except refused:
        raise
    except Exception as exc:
        for report in PARSER_REPORTS:
            report(parser, exc)
        raise refused(told) from exc


@contextmanager
def one_allowance() -> Iterator[None]:
    """Let all that is done in the block, and in tasks and threads that begin in it, have one allowance together.

    A block within another one has that one's.
    """
    token = _of_request.set(allowance())
    try:
        yield
    finally:
        _of_request.reset(token)


def allowance() -> WorkLeft:
    """Return what may still be done for a request; outside of any, a new one."""
    return _of_request.get() or WorkLeft()

"""Answers of the noun routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TypedDict

from karma.core.clock import iso
from karma.nouns.domain import Noun


class NounView(TypedDict):
    """A noun."""

    id: str
    name: str
    note: str
    created_at: str
    updated_at: str
    version: int


def noun_view(noun: Noun) -> NounView:
    """Shape a noun."""
    return {
        "id": noun.id,
        "name": noun.name,
        "note": noun.note,
        "created_at": iso(noun.created_at),
        "updated_at": iso(noun.updated_at),
        "version": noun.version,
    }


class NounData(TypedDict):
    """One noun."""

    noun: NounView


class NounListData(TypedDict):
    """A page of nouns."""

    nouns: list[NounView]
    limit: int
    next_cursor: str | None

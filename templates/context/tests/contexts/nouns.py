"""Declarations of nouns for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from karma.core.errors import AlreadyExists
from karma.core.ids import new_id
from karma.core.requests import RETENTION
from karma.nouns.domain import MAX_NAME_CHARS, MAX_NOTE_CHARS, Noun, NounId
from karma.nouns.repository import NounRepository
from tests.contract.stores.test_nouns import noun as a_noun
from tests.fakes.nouns import MemoryNouns
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Fakes, Pages, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import NOW, AccountRows


class NounRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.store = NounRepository()

    def another(self) -> Noun:
        return replace(a_noun(user=self.ada.id), id=NounId(new_id()))

    @cached_property
    def first(self) -> Noun:
        noun = self.another()
        self.store.create(noun, request=asked("t"))
        return noun


FAKES: Fakes = {MemoryNouns: (NounRepository,)}

SCENARIOS = Scenarios[NounRows](
    NounRows,
    {
        "NounRepository.get": made(lambda r: r.first, lambda r, n: r.store.get(n.user_id, n.id)),
        "NounRepository.made_by": made(lambda r: r.first, lambda r, n: r.store.made_by(n.user_id, asked("t"))),
        "NounRepository.create": made(lambda r: r.another(), lambda r, n: r.store.create(n, request=asked("t"))),
        "NounRepository.replace": made(
            lambda r: r.first, lambda r, n: r.store.replace(n, replace(n, name="x", version=2))
        ),
        "NounRepository.delete": made(lambda r: r.first, lambda r, n: r.store.delete(n)),
        "NounRepository.page": made(lambda r: r.first, lambda r, n: r.store.page(n.user_id, below="", limit=5)),
        "NounRepository.purge_account": made(lambda r: (r.first, r.purge()), lambda r, n: r.store.purge_account(n[1])),
    },
)


def _made_noun_over(rows: NounRows) -> None:
    rows.first  # noqa: B018
    again = rows.another()
    with pytest.raises(AlreadyExists):
        rows.store.create(again, request=asked("t"))
    rows.store.create(again, request=asked("t", at=NOW + RETENTION))


EXPIRES = Checks[NounRows](NounRows, {"noun_request": _made_noun_over})


def _noun(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/nouns", _new_noun(world, owner))["noun"]["id"])


def _new_noun(_: World, __: str) -> dict[str, Any]:
    return {"name": "First"}


OBJECTS: Objects = {"noun_id": _noun}

BODIES: Bodies = {
    "POST /api/v1/nouns": _new_noun,
    "PATCH /api/v1/nouns/{noun_id}": lambda *_: {"name": "Second"},
}

PAGES: Pages = {"nouns": (100, 6 * MAX_NOTE_CHARS + 4 * MAX_NAME_CHARS + 1_500)}

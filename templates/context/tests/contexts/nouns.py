from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from karma.core.ids import new_id
from karma.nouns.domain import MAX_NAME_CHARS, MAX_NOTE_CHARS, Noun, NounId
from karma.nouns.repository import DynamoNounStore
from tests.contract.stores.test_nouns import noun as a_noun
from tests.fakes.nouns import MemoryNounStore
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Fakes, Pages, Scenarios, made
from tests.support.rows import AccountRows
from tests.support.requests import asked


class NounRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.store = DynamoNounStore()

    def another(self) -> Noun:
        return replace(a_noun(user=self.ada.id), id=NounId(new_id()))

    @cached_property
    def first(self) -> Noun:
        noun = self.another()
        self.store.create(noun, request=asked("t"))
        return noun


FAKES: Fakes = {MemoryNounStore: (DynamoNounStore,)}

SCENARIOS = Scenarios[NounRows](
    NounRows,
    {
        "DynamoNounStore.get": made(lambda r: r.first, lambda r, n: r.store.get(n.user_id, n.id)),
        "DynamoNounStore.made_by": made(lambda r: r.first, lambda r, n: r.store.made_by(n.user_id, asked("t"))),
        "DynamoNounStore.create": made(lambda r: r.another(), lambda r, n: r.store.create(n, request=asked("t"))),
        "DynamoNounStore.replace": made(
            lambda r: r.first, lambda r, n: r.store.replace(n, replace(n, name="x", version=2))
        ),
        "DynamoNounStore.delete": made(lambda r: r.first, lambda r, n: r.store.delete(n)),
        "DynamoNounStore.page": made(lambda r: r.first, lambda r, n: r.store.page(n.user_id, below="", limit=5)),
        "DynamoNounStore.purge_account": made(lambda r: (r.first, r.purge()), lambda r, n: r.store.purge_account(n[1])),
    },
)


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

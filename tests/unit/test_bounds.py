"""Every kind of item that is stored has something that bounds it, and docs/adr/0034 says what."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import karma
from karma.core.dynamo.items import Item

ADR = Path(__file__).parents[2] / "docs/adr/0034-plan-limits.md"
BOUND = re.compile(r"\b(count|plan|rate|time|one|100|60|14,400|administrators|Stripe|metric|swept)\b")


def kinds() -> set[str]:
    """Return the discriminator of each item of karma.*."""
    for module in pkgutil.walk_packages(karma.__path__, "karma."):
        if "repository" in module.name or module.name.rpartition(".")[2] == "items":
            importlib.import_module(module.name)
    return {discriminator for kind in _below(Item) if (discriminator := kind.type.get_discriminator(kind))}


def _below(kind: type[Item]) -> Iterator[type[Item]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("karma."):
            yield each
        yield from _below(each)


def listed() -> list[tuple[list[str], str]]:
    section = ADR.read_text().partition("### Every kind of item")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([a-z_]+)`", names), bound) for names, bound in rows]


@pytest.mark.fault("F-26d", "F-26e")
def test_each_kind_of_item_is_named_once_with_what_bounds_it() -> None:
    rows = listed()
    named = [name for names, _ in rows for name in names]
    assert len(kinds()) > 60
    lacking, gone = sorted(kinds() - set(named)), sorted(set(named) - kinds())
    assert not lacking, f"say in {ADR.name}, Every kind of item, what bounds {lacking}"
    assert not gone, f"{ADR.name} names kinds that nothing stores any more: {gone}"
    assert not (twice := sorted(name for name in set(named) if named.count(name) > 1)), f"named twice: {twice}"
    unbounded = [bound for _, bound in rows if not BOUND.search(bound)]
    assert not unbounded, f"these say of no count, plan, rate or time that bounds: {unbounded}"

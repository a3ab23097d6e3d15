"""Declarations of the modules of tests/contexts, merged."""

from types import ModuleType

import pytest

from tests.support.contexts import DeclaredTwice, DeclaresNothing, Scenarios, merged, objects, shared
from tests.support.rows import AccountRows


def module(name: str, **declared: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(declared)
    return made


def test_what_modules_declare_comes_together() -> None:
    jars, lids = module("jars", BODIES={"a": 1}, SHARED={"jar_id"}), module("lids", BODIES={"b": 2})
    assert merged("BODIES", [jars, lids]) == {"a": 1, "b": 2}
    assert set(merged("SHARED", [jars, lids])) == {"jar_id"}


@pytest.mark.parametrize("declared", [{"a": 1}, {"a"}])
def test_what_two_modules_declare_is_refused_by_their_names(declared: object) -> None:
    with pytest.raises(DeclaredTwice, match="SHARED of jars and lids both have a"):
        merged("SHARED", [module("jars", SHARED=declared), module("lids", SHARED={"a"})])


def test_a_module_with_none_of_the_names_is_refused() -> None:
    with pytest.raises(DeclaresNothing, match="jars"):
        merged("BODIES", [module("jars", BODYS={"a": 1})])


def test_what_is_shared_is_something_that_a_path_names() -> None:
    assert shared() <= objects().keys()


def test_a_scenario_has_rows_of_its_own() -> None:
    twice = Scenarios[AccountRows](AccountRows, {"Jars.get": lambda r: lambda: r.id})
    first, second = twice["Jars.get"](), twice["Jars.get"]()
    assert first() == first() != second()

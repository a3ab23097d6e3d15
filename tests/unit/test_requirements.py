"""docs/requirements.md tells the truth about the tests."""

from tests.support.requirements import PAGE, named_by_tests, registry, render


def test_every_requirement_is_met_replaced_or_assigned_to_later_work() -> None:
    tests = named_by_tests()
    undecided = [each.id for each in registry() if not (each.replaced_by or each.later or tests.get(each.id))]
    assert undecided == []


def test_a_replacement_says_why_and_where_it_shows() -> None:
    assert [each.id for each in registry() if each.replaced_by and not (each.why and each.shown_by)] == []


def test_tests_name_only_ids_that_exist() -> None:
    known = {each.id for each in registry()}
    assert {found: names for found, names in named_by_tests().items() if found not in known} == {}


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == render(registry(), named_by_tests()), "run `make docs`"

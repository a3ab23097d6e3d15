"""docs/faults.md tells the truth about the tests."""

from tests.support.faults import PAGE, named_by_tests, registry, render


def test_every_kind_is_tried_or_says_why_it_is_open() -> None:
    tests = named_by_tests()
    assert [each.id for each in registry() if not (tests.get(each.id) or each.open)] == []


def test_tests_name_only_kinds_that_exist() -> None:
    known = {each.id for each in registry()}
    assert {found: names for found, names in named_by_tests().items() if found not in known} == {}


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == render(registry(), named_by_tests()), "run `make docs`"

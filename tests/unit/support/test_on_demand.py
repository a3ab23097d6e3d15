"""A resource of the engine is made by the first call that names it."""

import threading
from collections.abc import Iterator

import pytest

from tests.support import on_demand


@pytest.fixture(autouse=True)
def nothing_owed() -> Iterator[None]:
    yield
    on_demand.forget()


@pytest.mark.parametrize(
    "params",
    [
        {"TableName": "x"},
        {"QueueUrl": "x"},
        {"Bucket": "x", "Key": "y"},
        {"SecretId": "x"},
        {"RequestItems": {"x": {}}},
        {"TransactItems": [{"Put": {"TableName": "y"}}, {"ConditionCheck": {"TableName": "x"}}]},
    ],
    ids=["table", "queue", "bucket", "secret", "batch", "transaction"],
)
def test_is_made_once_by_the_first_call_that_names_it(params: dict[str, object]) -> None:
    made: list[str] = []
    assert on_demand.owe("x", lambda: made.append("x")) == "x"
    on_demand.before_call(params={"TableName": "another"})
    assert made == []
    on_demand.before_call(params=params)
    on_demand.before_call(params=params)
    on_demand.make_all()
    assert made == ["x"]


def test_what_another_process_is_told_of_is_made_and_nothing_else() -> None:
    made: list[str] = []
    for name in ("test-one", "test-two", "test-three"):
        on_demand.owe(name, lambda name=name: made.append(name))  # type: ignore[misc]
    on_demand.make_told(['{"tables": ["test-one"]}', "test-three"])
    assert made == ["test-one", "test-three"]
    assert [on_demand.is_owed(name) for name in ("test-one", "test-two", "test-three")] == [False, True, False]


def test_who_asks_while_it_is_made_waits() -> None:
    began, may_end = threading.Event(), threading.Event()
    made: list[str] = []
    there: list[bool] = []

    def make() -> None:
        began.set()
        assert may_end.wait(30)
        made.append("x")

    def call() -> None:
        on_demand.before_call(params={"TableName": "x"})
        there.append(bool(made))

    on_demand.owe("x", make)
    first, second = threading.Thread(target=call), threading.Thread(target=call)
    first.start()
    assert began.wait(30)
    second.start()
    second.join(0.1)  # who would not wait is through by then
    may_end.set()
    first.join(30)
    second.join(30)
    assert (made, there) == (["x"], [True, True])


def test_what_cannot_be_made_is_owed_still() -> None:
    goes = iter([OSError("no engine"), None])

    def make() -> None:
        if problem := next(goes):
            raise problem

    on_demand.owe("x", make)
    with pytest.raises(OSError, match="no engine"):
        on_demand.before_call(params={"TableName": "x"})
    on_demand.before_call(params={"TableName": "x"})
    assert next(goes, "over") == "over"

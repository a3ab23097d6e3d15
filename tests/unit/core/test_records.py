"""A record is what the standard library's decorator makes of the same lines, though it is compiled when it is used."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, dataclass, field, fields, is_dataclass, replace
from threading import Barrier
from typing import Any, ClassVar, Generic, TypeVar

import pytest
from pydantic import TypeAdapter

from karma.core.records import Record, compile_all

T = TypeVar("T")


class Point(Record):
    x: int
    y: int = 2
    kind: ClassVar[str] = "point"

    @property
    def sum(self) -> int:
        return self.x + self.y


class Named(Point):
    name: str = field(default="nobody", compare=False)
    tags: list[str] = field(default_factory=list, repr=False)


class Bounded(Record, kw_only=True):
    low: int
    high: int = 9

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low")


class Own(Point):
    def __init__(self, both: int) -> None:
        super().__init__(both, both)


class Plain(Point):
    """Adds nothing."""


class Holder(Record, Generic[T]):
    held: T


@dataclass(frozen=True)
class StandardPoint:
    x: int
    y: int = 2

    @property
    def sum(self) -> int:
        return self.x + self.y


@dataclass(frozen=True)
class StandardNamed(StandardPoint):
    name: str = field(default="nobody", compare=False)
    tags: list[str] = field(default_factory=list, repr=False)


def is_compiled(cls: type) -> bool:
    return "__dataclass_fields__" in vars(cls)


def test_a_class_is_as_the_standard_library_makes_it() -> None:
    ours: list[Any] = [Point(1), Point(1, y=3), Named(1), Named(1, 3, "x", ["t"])]
    theirs: list[Any] = [StandardPoint(1), StandardPoint(1, y=3), StandardNamed(1), StandardNamed(1, 3, "x", ["t"])]
    assert [repr(each) for each in ours] == [repr(each).replace("Standard", "") for each in theirs]
    assert [each.sum for each in ours] == [each.sum for each in theirs]
    for i, _ in enumerate(ours):
        assert [ours[i] == each for each in ours] == [theirs[i] == each for each in theirs]
    assert hash(ours[0]) == hash(theirs[0])
    for one, other in ((Point, StandardPoint), (Named, StandardNamed)):
        assert [(f.name, f.type, f.default, f.kw_only) for f in fields(one)] == [
            (f.name, f.type, f.default, f.kw_only) for f in fields(other)
        ]
    with pytest.raises(FrozenInstanceError):
        ours[2].name = "y"
    for copies in (replace, getattr(copy, "replace", replace)):
        assert copies(ours[3], y=7) == Named(1, 7, tags=["t"])
    assert pickle.loads(pickle.dumps(ours[3])) == ours[3]
    match ours[3]:
        case Named(x, y):
            assert (x, y) == (1, 3)
        case _:
            pytest.fail("no positional pattern")


def test_options_bases_and_methods_of_its_own_are_kept() -> None:
    with pytest.raises(TypeError, match="positional"):
        Bounded(1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="low"):
        Bounded(low=10)
    assert (Own(4).x, Own(4).sum) == (4, 8)
    assert Plain(1) != Point(1)
    assert Holder[int](3).held == 3
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        Plain()  # type: ignore[call-arg]
    assert TypeAdapter(Bounded).validate_python({"low": "3"}) == Bounded(low=3)


@pytest.mark.parametrize(
    "use",
    [lambda cls: cls(1), fields, is_dataclass, lambda cls: type("Below", (cls,), {})(1), lambda cls: compile_all()],
    ids=["call", "fields", "is_dataclass", "call of one below", "compile_all"],
)
def test_a_class_is_compiled_by_its_first_use(use: Callable[[type[Record]], object]) -> None:
    class New(Record):
        x: int

    assert not is_compiled(New)
    use(New)
    assert is_compiled(New)


def test_threads_that_make_the_first_instances_at_once_get_whole_ones() -> None:
    threads = 8
    barrier = Barrier(threads)

    def first(cls: type[Any]) -> Any:
        barrier.wait()
        return cls(a=1)

    with ThreadPoolExecutor(threads) as pool:
        for number in range(50):
            members = {"__annotations__": {"a": "int", "b": "int", "c": "int"}, "b": 2, "c": 3}
            cls = type(f"First{number}", (Record,), members)
            made = list(pool.map(first, [cls] * threads))
            assert all(each == cls(1, 2, 3) and hash(each) == hash(cls(1)) for each in made)


def test_importing_compiles_little() -> None:
    """Of the domains, which are all that a start imports of most contexts."""
    code = (
        "from karma.core.records import Record\n"
        "import karma.devices.domain, karma.runs.domain, karma.identity.domain\n"
        "def below(cls):\n"
        "    return [each for one in cls.__subclasses__() for each in (one, *below(one))]\n"
        "print(len(below(Record)), sum('__eq__' in vars(each) for each in below(Record)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    classes, compiled = map(int, done.stdout.split())
    assert classes > 40
    assert compiled < classes / 4, "those below another record, and what modules keep as constants"

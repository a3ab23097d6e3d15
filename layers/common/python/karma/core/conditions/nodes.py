"""The parts of compiled conditions: each evaluates itself over values, by the rules of CEL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from karma.core.records import Record

MAX_STEPS: Final = 10_000
"""Steps of one evaluation: one a part of the expression, and one a member that `in`, `==` or `contains` compares."""
INT64: Final = range(-(2**63), 2**63)
ORDERS: Final[Mapping[str, Callable[[int], bool]]] = {
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}


class ConditionInvalid(ValueError):
    """A text is no condition; the message says what is wrong, and `at` is the place, counted in characters from 1."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(f"{message} (at character {at})")
        self.at = at


class ConditionUnanswered(Exception):
    """A condition has no answer for the values that it was given: a member is missing, or types do not fit."""


class _OutOfBudget(ConditionUnanswered):
    """The budget of steps is used up; no operator passes over this."""


class Evaluation:
    """The values of one evaluation, and the steps that are left for it."""

    __slots__ = ("left", "values")

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values
        self.left = MAX_STEPS

    def step(self, n: int = 1) -> None:
        """Count steps.

        Raises:
            ConditionUnanswered: none is left.
        """
        self.left -= n
        if self.left < 0:
            raise _OutOfBudget(f"the condition takes more than {MAX_STEPS} steps")


Run = Callable[[Evaluation], object]


class Node(Record):
    """A part of a compiled expression."""

    run: Run
    kind: type | None
    """Type of its value where that is known; None: it depends on the values given."""
    at: int
    parent: Run | None = None
    """For a path that ends with `.name`: what evaluates all before it."""
    member: str = ""


def constant_of(value: object, at: int) -> Node:
    """Compile a literal."""

    def constant(work: Evaluation) -> object:
        work.step()
        return value

    return Node(constant, type(value), at)


def truth(node: Node) -> Node:
    """Return a part that has to be true or false.

    Raises:
        ConditionInvalid: the part can never be.
    """
    if node.kind not in {None, bool}:
        raise ConditionInvalid(node.at, "must yield true or false")
    return node


def logic_of(left: Node, right: Node, *, decides: bool) -> Node:
    """Compile `||` (`decides` is True) or `&&`: a side that decides makes a fault of the other side irrelevant."""
    first, second = left.run, right.run

    def side(run: Run, work: Evaluation) -> bool | ConditionUnanswered:
        try:
            value = run(work)
        except _OutOfBudget:
            raise
        except ConditionUnanswered as exc:
            return exc
        return value if isinstance(value, bool) else ConditionUnanswered("'&&' and '||' need true or false")

    def logic(work: Evaluation) -> object:
        work.step()
        one = side(first, work)
        if one is decides:
            return decides
        other = side(second, work)
        if other is decides:
            return decides
        for each in (one, other):
            if isinstance(each, ConditionUnanswered):
                raise each
        return not decides

    return Node(logic, bool, left.at)


def comparison_of(left: Node, sign: str, right: Node) -> Node:
    """Compile an equality, or an order of numbers, strings or booleans."""
    first, second = left.run, right.run
    if sign in {"==", "!="}:
        wanted = sign == "=="

        def equality(work: Evaluation) -> object:
            work.step()
            return _is_equal(first(work), second(work), work) is wanted

        return Node(equality, bool, left.at)
    holds = ORDERS[sign]

    def order(work: Evaluation) -> object:
        work.step()
        one, other = first(work), second(work)
        if _is_number(one) and _is_number(other):
            if one != one or other != other:
                return False
        elif not (type(one) is type(other) and isinstance(one, str | bool)):
            raise ConditionUnanswered(f"'{sign}' has no order for {_named_type(one)} and {_named_type(other)}")
        return holds((one > other) - (one < other))  # type: ignore[operator]

    return Node(order, bool, left.at)


def membership_of(left: Node, right: Node) -> Node:
    """Compile `in`: a member of a list, or a name of an object."""
    if right.kind not in {None, list}:
        raise ConditionInvalid(right.at, "'in' needs a list or an object on its right")
    first, second = left.run, right.run

    def membership(work: Evaluation) -> object:
        work.step()
        value, within = first(work), second(work)
        if isinstance(within, Mapping):
            return isinstance(value, str) and value in within
        if not isinstance(within, list):
            raise ConditionUnanswered("'in' needs a list or an object on its right")
        return any(_is_equal(value, each, work) for each in within)

    return Node(membership, bool, left.at)


def selection_of(of: Node, name: str) -> Node:
    """Compile `of.name`."""
    if of.kind is not None:
        raise ConditionInvalid(of.at, "has no members")
    parent = of.run

    def selected(work: Evaluation) -> object:
        work.step()
        value = parent(work)
        if not isinstance(value, Mapping) or name not in value:
            raise ConditionUnanswered(f"there is no member {name[:64]!r}")
        return value[name]

    return Node(selected, None, of.at, parent, name)


def element_of(of: Node, index: Node) -> Node:
    """Compile `of[index]`."""
    if of.kind not in {None, list}:
        raise ConditionInvalid(of.at, "has no members")
    parent, place = of.run, index.run

    def indexed(work: Evaluation) -> object:
        work.step()
        value, at = parent(work), place(work)
        if isinstance(value, Mapping) and isinstance(at, str) and at in value:
            return value[at]
        if isinstance(value, list) and type(at) is int and 0 <= at < len(value):
            return value[at]
        raise ConditionUnanswered("there is no such member")

    return Node(indexed, None, of.at)


def presence_of(path: Node) -> Node:
    """Compile `has(path)`: whether the object before the last name of a path has a member of that name."""
    parent, name = path.parent, path.member
    if parent is None:
        raise ConditionInvalid(path.at, "has() takes a path that ends with a member, as in has(args.name)")

    def presence(work: Evaluation) -> object:
        work.step()
        value = parent(work)
        if not isinstance(value, Mapping):
            raise ConditionUnanswered("has() needs an object")
        return name in value

    return Node(presence, bool, path.at)


def size_of(of: Node) -> Node:
    """Compile the number of characters of a string, or of members of a list or object."""
    if of.kind not in {None, str, list}:
        raise ConditionInvalid(of.at, "has no size")
    inner = of.run

    def size(work: Evaluation) -> object:
        work.step()
        value = inner(work)
        if not isinstance(value, str | list | Mapping):
            raise ConditionUnanswered(f"{_named_type(value)} has no size")
        return len(value)

    return Node(size, int, of.at)


def text_test_of(name: str, on: Node, argument: Node, at: int) -> Node:
    """Compile `on.startsWith(argument)`, `endsWith` or `contains`."""
    first, second = on.run, argument.run

    def text_test(work: Evaluation) -> object:
        work.step()
        text, part = first(work), second(work)
        if not isinstance(text, str) or not isinstance(part, str):
            raise ConditionUnanswered(f"{name} takes strings")
        work.step(len(text) // 1_000)
        if name == "startsWith":
            return text.startswith(part)
        return text.endswith(part) if name == "endsWith" else part in text

    return Node(text_test, bool, at)


def _is_number(value: object) -> bool:
    if type(value) is int and value not in INT64:
        raise ConditionUnanswered("a whole number has more than 64 bits")
    return type(value) in {int, float}


def _is_equal(one: object, other: object, work: Evaluation) -> bool:
    work.step()
    if _is_number(one) and _is_number(other):
        return one == other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key], work) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_is_equal(a, b, work) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and one == other


def _named_type(value: object) -> str:
    names = {bool: "bool", int: "int", float: "double", str: "string", list: "list", type(None): "null"}
    return names.get(type(value), "object")

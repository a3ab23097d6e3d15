"""Immutable dataclasses whose constructors are compiled when they are first needed, not while their module is imported.

    class Reading(Record, kw_only=True):
        device_id: str
        metrics: Mapping[str, float] = field(default_factory=dict)

behaves as `@dataclass(frozen=True, kw_only=True)` makes it. The standard library's decorator writes seven methods as
source and compiles them: 0.4 ms a class, half of what importing this project's modules cost, and most classes that a
start imports are not used by what it serves. Here the constructor alone is compiled, by the first call of the class or
the first question for its fields: 0.1 ms. The other methods are the same for all records and read the fields'
names; so equality and hashes take 0.3 us longer than compiled ones.

Three things differ from the standard library's: the signature of the class and a default that is written as
`field(default=...)` are not known before the first use, and two records that hold the same NaN are equal, as tuples
that hold it are. Where a snapshot is taken of the process, all classes are compiled before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from reprlib import recursive_repr
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, Final, Never, dataclass_transform

_FIELDS: Final = "__dataclass_fields__"
_MISSING: Final = dataclasses.MISSING

_compiling: Final = RLock()


class _Fields:
    """Compiles a class that is asked for its fields, also by the decorator that compiles one below it."""

    def __get__(self, instance: object, owner: type[Record]) -> dict[str, dataclasses.Field[Any]]:
        _compile(owner)
        fields: dict[str, dataclasses.Field[Any]] = vars(owner).get(_FIELDS, {})
        return {} if owner is Record else fields


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Record:
    """Makes each class below a frozen dataclass."""

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    _kw_only: ClassVar[bool]

    def __init_subclass__(cls, *, kw_only: bool = False, **others: Any) -> None:
        """Have the class compiled when it is used.

        At once where no call of the class would find `Record.__init__`: the class or one above has another.
        """
        super().__init_subclass__(**others)
        cls._kw_only = kw_only
        if "__init__" in vars(cls) or any(base is not Record and issubclass(base, Record) for base in cls.__bases__):
            _compile(cls)

    def __init__(self, *values: Any, **named: Any) -> None:
        """Stand in for the constructor of a class until that is compiled."""
        _compile(type(self))
        type(self).__init__(self, *values, **named)

    def __setattr__(self, name: str, value: object) -> Never:
        """Refuse: a record is changed by `dataclasses.replace`, which makes another."""
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> Never:
        """Refuse."""
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        """Compare the fields' values with those of another record of exactly this class."""
        if type(other) is not type(self):
            return NotImplemented
        values = _compared(type(self))  # type: ignore[arg-type]  # mypy takes the method for the class's own hash
        return bool(values(self) == values(other))

    def __hash__(self) -> int:
        """Hash the values that are compared."""
        return hash(_compared(type(self))(self))  # type: ignore[arg-type]

    @recursive_repr()
    def __repr__(self) -> str:
        """Return the call that would make the record, without the fields that are not to be shown."""
        shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
        return f"{type(self).__qualname__}({shown})"


@cache
def _compared(cls: type[Record]) -> Callable[[Record], object]:
    """Return the function that reads what is compared of a record."""
    names = [each.name for each in dataclasses.fields(cls) if each.compare]
    return attrgetter(*names) if names else lambda _: ()


def _compile(cls: type[Record]) -> None:
    with _compiling:
        if _FIELDS not in vars(cls):
            own = vars(cls).get("__init__")
            dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=cls._kw_only)(cls)
            if own is None:
                setattr(cls, "__init__", _constructor(cls, dataclasses.fields(cls)))  # noqa: B010 -- of the class


def _constructor(cls: type[Record], fields: Sequence[dataclasses.Field[Any]]) -> Callable[..., None]:
    """Compile `__init__` of a class: a parameter a field, and `__post_init__` at the end where there is one."""
    names: dict[str, object] = {"_set": object.__setattr__, "_MISSING": _MISSING}
    parameters: list[str] = []
    named: list[str] = []
    body: list[str] = []
    for each in fields:
        name = value = each.name
        parameter = name
        if each.default is not _MISSING:
            names[f"_default_{name}"] = each.default
            parameter = f"{name}=_default_{name}"
        elif each.default_factory is not _MISSING:
            names[f"_make_{name}"] = each.default_factory
            parameter, value = f"{name}=_MISSING", f"_make_{name}() if {name} is _MISSING else {name}"
        (named if each.kw_only else parameters).append(parameter)
        body.append(f"  _set(self, {name!r}, {value})\n")
    if hasattr(cls, "__post_init__"):
        body.append("  self.__post_init__()\n")
    header = ", ".join(["self", *parameters, *(["*", *named] if named else [])])
    exec(f"def __init__({header}):\n{''.join(body) or '  pass'}", names)  # noqa: S102 -- of identifiers alone
    made: Any = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    made.__annotations__ = {**{each.name: each.type for each in fields}, "return": None}
    return made  # type: ignore[no-any-return]


dataclasses.dataclass(init=False, repr=False, eq=False)(Record)
setattr(Record, _FIELDS, _Fields())


def compile_all(of: type[Record] = Record) -> None:
    """Compile every class that is imported by now."""
    for cls in of.__subclasses__():
        _compile(cls)
        compile_all(cls)

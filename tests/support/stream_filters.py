"""Lambda's filter of a stream's records, as far as the project's patterns use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra.catalog import FunctionName
from infra.stream_filters import STREAM_FILTERS


def let_through(function: FunctionName, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records that a function is handed."""
    patterns = STREAM_FILTERS.get(function)
    return [dict(each) for each in records if patterns is None or any(_fits(pattern, each) for pattern in patterns)]


def _fits(pattern: Mapping[str, Any], value: object) -> bool:
    """Tell whether a record has all that a pattern names, each with one of the values that the pattern lists for it."""
    if not isinstance(value, Mapping):
        return False
    return all(
        _fits(wanted, value.get(name))
        if isinstance(wanted, Mapping)
        else any(_is(each, value.get(name)) for each in wanted)
        for name, wanted in pattern.items()
    )


def _is(wanted: object, value: object) -> bool:
    if isinstance(wanted, Mapping):
        [(operator, prefix)] = wanted.items()
        assert operator == "prefix", f"{operator} is not known here: add it"
        return isinstance(value, str) and value.startswith(prefix)
    return wanted == value

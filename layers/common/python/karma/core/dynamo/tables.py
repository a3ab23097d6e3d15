"""Map from the logical names of tables, which code uses, to the deployed ones.

A context names its table by its purpose (`identity`, `devices`, `work`); the settings of a function have the name of
the deployed table. Its composition root binds them once, before the first request:

    bind_tables(settings)            # identity_table, devices_table, ... of the settings

Reads and writes ask `deployed` at each call, so that repositories need not be given a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from karma.core.settings import FunctionSettings

_SUFFIX = "_table"
_deployed: dict[str, str] = {}


class TableUnbound(RuntimeError):
    """The process has no deployed table bound to a logical name."""


def bind_tables(settings: FunctionSettings) -> None:
    """Bind the tables that the settings name: each field `<logical name>_table`."""
    given = asdict(settings).items()
    bind_names({field.removesuffix(_SUFFIX): name for field, name in given if field.endswith(_SUFFIX)})


def bind_names(deployed: Mapping[str, str]) -> None:
    """Bind logical names to deployed tables; names bound before and not given stay."""
    _deployed.update(deployed)


def deployed(logical: str) -> str:
    """Return the name of the deployed table.

    Raises:
        TableUnbound: no table is bound to the logical name.
    """
    try:
        return _deployed[logical]
    except KeyError:
        raise TableUnbound(
            f"no table is bound for {logical!r}: the function's settings need {logical}{_SUFFIX}"
        ) from None

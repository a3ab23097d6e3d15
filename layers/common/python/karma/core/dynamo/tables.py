"""Names of the deployed tables behind the logical ones that code speaks of.

A context names its table by what it is for (`identity`, `devices`, `work`); which table of the account that is, a
function is told by its settings. Its composition root says so once, before the first request:

    bind_tables(settings)            # identity_table, devices_table, ... of the settings

Whatever reads or writes asks `deployed` at each call, so that no repository is given a table, or has to be made for its
table to be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from karma.core.settings import FunctionSettings

_SUFFIX = "_table"
_deployed: dict[str, str] = {}


class TableUnbound(RuntimeError):
    """The process was not told which table of the account is behind a logical one."""


def bind_tables(settings: FunctionSettings) -> None:
    """Tell the process which tables its settings name: each field `<logical name>_table`."""
    given = asdict(settings).items()
    bind_names({field.removesuffix(_SUFFIX): name for field, name in given if field.endswith(_SUFFIX)})


def bind_names(deployed: Mapping[str, str]) -> None:
    """Tell the process which deployed tables are behind logical ones, beside those that it was told of before."""
    _deployed.update(deployed)


def deployed(logical: str) -> str:
    """Return the name of the deployed table.

    Raises:
        TableUnbound: the process's settings have none for it.
    """
    try:
        return _deployed[logical]
    except KeyError:
        raise TableUnbound(
            f"no table is bound for {logical!r}: the function's settings need {logical}{_SUFFIX}"
        ) from None

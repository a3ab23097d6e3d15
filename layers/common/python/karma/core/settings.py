"""Environment variables become one frozen dataclass a function; nothing else reads the environment.

A function declares the variables that it needs, and no others:

    class Settings(FunctionSettings, kw_only=True):
        devices_table: str            # DEVICES_TABLE, required
        mqtt_port: int = 8883         # MQTT_PORT, optional

`tests/infra` compares these fields with the variables that the stacks set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from karma.core.records import Record

_S = TypeVar("_S", bound="FunctionSettings")
_READERS: Mapping[str, Any] = {"str": str, "int": int, "float": float}


class SettingsError(RuntimeError):
    """A variable is missing or unreadable; its name is in the message, its value never."""


class FunctionSettings(Record, kw_only=True):
    """Settings that every function has."""

    stage: str
    """Name of the deployment: `local`, `dev`, `prod` or a developer's own."""


def library_path() -> dict[str, str]:
    """Return the variable by which this interpreter finds its libraries: the whole environment of a child process."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def load(cls: type[_S], env: Mapping[str, str] | None = None) -> _S:
    """Read the fields of a settings class from the environment.

    An empty variable counts as absent: CloudFormation cannot leave one out.

    Raises:
        SettingsError: names the first variable that is missing or is not of the field's type.
    """
    source = os.environ if env is None else env
    values: dict[str, Any] = {}
    for field in fields(cls):
        name = field.name.upper()
        raw = source.get(name, "")
        if raw == "":
            if field.default is MISSING:
                raise SettingsError(f"environment variable {name} is missing")
            continue
        kind = field.type if isinstance(field.type, str) else field.type.__name__
        try:
            values[field.name] = _READERS[kind](raw)
        except ValueError:
            raise SettingsError(f"environment variable {name} is not of type {kind}") from None
    return cls(**values)

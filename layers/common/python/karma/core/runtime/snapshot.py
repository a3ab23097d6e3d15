"""SnapStart hooks: functions that run before the snapshot is taken, or in each clone before its first request.

In Lambda the registry is AWS's own module `snapshot_restore_py`, so that the managed runtime's functions and the stream
function share these registrations; elsewhere the lists of this module stand in. Before-hooks run in reverse order.

Nothing in this package is random, reads a clock or opens a socket at import: every clone would share it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

Hook = Callable[[], object]
# Entry of AWS's registry: a callable with the arguments it was registered with.
_Registered = tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]

_before: list[_Registered] = []
_after: list[_Registered] = []


def before_snapshot(hook: Hook) -> Hook:
    """Register a function that runs at the end of init; the last registered runs first."""
    registry = _aws_registry()
    if registry is None:
        _before.append((hook, (), {}))
    else:
        registry.register_before_snapshot(hook)
    return hook


def after_restore(hook: Hook) -> Hook:
    """Register a function that runs in each restored clone; the first registered runs first."""
    registry = _aws_registry()
    if registry is None:
        _after.append((hook, (), {}))
    else:
        registry.register_after_restore(hook)
    return hook


def run_before_snapshot() -> None:
    """Run and unregister the before-hooks; their exceptions propagate."""
    registry = _aws_registry()
    hooks: list[_Registered] = _before if registry is None else registry.get_before_snapshot()
    while hooks:
        function, args, kwargs = hooks.pop()
        function(*args, **kwargs)


def run_after_restore() -> None:
    """Re-seed, drop the AWS clients with their sockets, credentials and secrets, then run the after-hooks."""
    random.seed()
    if "karma.core.aws" in sys.modules:
        sys.modules["karma.core.aws"].reset()
    registry = _aws_registry()
    hooks: list[_Registered] = _after if registry is None else registry.get_after_restore()
    for function, args, kwargs in hooks:
        function(*args, **kwargs)


def _aws_registry() -> ModuleType | None:
    return import_module("snapshot_restore_py") if find_spec("snapshot_restore_py") else None

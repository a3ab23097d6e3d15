"""Tables and queues that are made when a request first names them: most tests need few of those of a function.

    name = owe("test-devices", lambda: client.create_table(TableName="test-devices", ...))

A hook of botocore reads the names in each call of this process, presigned ones included. Before other processes are
told names, `make_all` makes everything, and `make_told` what their environment names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

_owed: dict[str, Callable[[], object]] = {}
_lock = threading.Lock()
# A thread of its own: who makes a table for a function that calls is neither recorded as the function nor takes turns
# as an actor. A maker may name nothing that is owed.
_maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="on demand")


def owe(name: str, make: Callable[[], object]) -> str:
    """Register how a resource is made when a call first names it; return the name."""
    _owed[name] = make
    return name


def tables(client: Any, shapes: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, str]:
    """Register tables of these shapes; return their names by the keys of the shapes."""

    def owed(name: str, shape: Mapping[str, Any]) -> str:
        return owe(name, lambda: client.create_table(TableName=name, **shape))

    return {key: owed(f"{prefix}{key}", shape) for key, shape in shapes.items()}


def make_all() -> None:
    """Make all registered resources now."""
    _settle(list(_owed))


def make_told(texts: Iterable[str]) -> None:
    """Make the registered resources whose names stand in texts of which another process is told."""
    told = "\n".join(texts)
    _settle([name for name in _owed if name in told])


def is_owed(name: str) -> bool:
    """Tell whether a resource is registered and not made yet, so that it holds nothing."""
    return name in _owed


def forget() -> None:
    """Remove all registrations: the account has changed."""
    _owed.clear()


def is_making() -> bool:
    """Tell whether this thread is the one that makes what is owed."""
    return threading.current_thread().name.startswith("on demand")


def before_call(**event: Any) -> None:
    """Receive botocore's event before a call's parameters are written out."""
    if _owed:
        _settle([name for name in _named(event["params"]) if name in _owed])


def _named(params: Mapping[str, Any]) -> Iterator[str]:
    for parameter in ("TableName", "QueueUrl", "Bucket", "SecretId", "KeyId"):
        if parameter in params:
            yield params[parameter]
    yield from params.get("RequestItems", ())
    for item in params.get("TransactItems", ()):
        for part in item.values():
            yield part["TableName"]
    for each in [params, *params.get("Statements", ())]:
        if "Statement" in each:
            yield each["Statement"].split('"')[1]


def _settle(names: list[str]) -> None:
    if not names or is_making():
        return
    with _lock:  # of two that ask at once, the second waits until it is made
        for name in names:
            if name in _owed:
                Context().run(_maker.submit, _owed[name]).result()
                del _owed[name]

"""What tests are told of is made when a request first names it: most need few of the tables and queues of a function.

    name = owe("test-devices", lambda: client.create_table(TableName="test-devices", ...))

A hook of botocore reads what each call of this process is about, presigned ones included. What other processes are told
of has to be there before them: `make_all`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

_owed: dict[str, Callable[[], object]] = {}
_lock = threading.Lock()
# A thread of its own: who makes a table for a function that calls is neither recorded as the function nor takes turns
# as an actor. A maker may name nothing that is owed.
_maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="on demand")


def owe(name: str, make: Callable[[], object]) -> str:
    """Have it made when a call first names it; returns the name, by which calls know it."""
    _owed[name] = make
    return name


def tables(client: Any, shapes: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, str]:
    """Owe tables of these shapes; returns their names, which are the keys behind the prefix."""

    def owed(name: str, shape: Mapping[str, Any]) -> str:
        return owe(name, lambda: client.create_table(TableName=name, **shape))

    return {key: owed(f"{prefix}{key}", shape) for key, shape in shapes.items()}


def make_all() -> None:
    """Make what is still owed."""
    _settle(list(_owed))


def forget() -> None:
    """Owe nothing any more: the account of now is another."""
    _owed.clear()


def before_call(**event: Any) -> None:
    """Receive botocore's event before a call's parameters are written out."""
    if _owed:
        _settle([name for name in _named(event["params"]) if name in _owed])


def _named(params: Mapping[str, Any]) -> Iterator[str]:
    for parameter in ("TableName", "QueueUrl", "Bucket", "SecretId"):
        if parameter in params:
            yield params[parameter]
    yield from params.get("RequestItems", ())
    for item in params.get("TransactItems", ()):
        for part in item.values():
            yield part["TableName"]


def _settle(names: list[str]) -> None:
    if not names or threading.current_thread().name.startswith("on demand"):
        return
    with _lock:  # of two that ask at once, the second waits until it is made
        for name in names:
            if name in _owed:
                Context().run(_maker.submit, _owed[name]).result()
                del _owed[name]

"""Recording of the AWS calls that each function makes within its entry, without those that a test makes itself.

The entries (`lambda_handler`, the ASGI app) are wrapped when their modules are imported; the wrapper names the function
in a context variable, which tasks inherit, and threads as well while this is installed. A hook of botocore reads it at
each call, presigned ones included. Seeding, repositories and services that a test calls directly have no function.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import importlib.abc
import importlib.machinery
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from types import ModuleType
from typing import Any

from infra.catalog import FUNCTIONS, FunctionName
from tests.support.recorded_calls.needs import NOT_FOUND, Need, Params, Told, needs_of

_at_work: contextvars.ContextVar[FunctionName | None] = contextvars.ContextVar("function at work", default=None)


def _entries() -> dict[str, tuple[str, FunctionName]]:
    """Module -> its entry's name and the function; handlers are written `module.attribute`, apps `module:attribute`."""
    found = {}
    for name, spec in FUNCTIONS.items():
        module, _, attribute = spec.handler.replace(":", ".").rpartition(".")
        found[module] = (attribute, name)
    return found


ENTRIES = _entries()
_CONTEXT = "recorded"
"""Key of botocore's context that carries function and parameters from one event of a call to the next."""


class Recorder:
    """Recorded calls, each kind once."""

    def __init__(self) -> None:
        self.listens = True
        """False: a test of another ring runs in this process."""
        self.calls: dict[FunctionName, set[Need]] = {}
        self.unmapped: set[str] = set()
        self._fresh: set[tuple[FunctionName, Need]] = set()

    def before(self, *, params: Params, model: Any, context: dict[str, Any], **_: Any) -> None:
        """Receive botocore's event before a call's parameters are written out; never raises into the function."""
        function = _at_work.get()
        if function is None or not self.listens:
            return
        told = Told(function, os.environ)
        context[_CONTEXT] = (told, params)
        self.hear(told, model.service_model.service_name, model.name, params)

    def after(self, *, http_response: Any, model: Any, context: dict[str, Any], **_: Any) -> None:
        """Receive botocore's event after a call: a missing object may need more permissions than one that exists."""
        if http_response.status_code == HTTPStatus.NOT_FOUND and _CONTEXT in context:
            told, params = context[_CONTEXT]
            self.hear(told, model.service_model.service_name, f"{model.name}{NOT_FOUND}", params)

    def without_botocore(self, service: str, operation: str) -> None:
        """Record a call that a client of ours makes without botocore."""
        function = _at_work.get()
        if function is not None and self.listens:
            self.hear(Told(function, os.environ), service, operation, {})

    def hear(self, told: Told, service: str, operation: str, params: Params) -> None:
        """Record one call of a function."""
        try:
            needs = needs_of(told, service, operation, params)
        except LookupError as exc:
            self.unmapped.add(f"{told.function}: {service}.{operation}: {exc}")
            return
        self._add(told.function, needs)

    def _add(self, function: FunctionName, needs: Sequence[Need]) -> None:
        known = self.calls.setdefault(function, set())
        for need in needs:
            if need not in known:
                known.add(need)
                self._fresh.add((function, need))

    def take_fresh(self) -> set[tuple[FunctionName, Need]]:
        """Return the needs that are new since the last question."""
        fresh, self._fresh = self._fresh, set()
        return fresh

    def take_unmapped(self) -> set[str]:
        """Return the calls since the last question whose needs are unknown."""
        unmapped, self.unmapped = self.unmapped, set()
        return unmapped

    def told(self) -> dict[str, Any]:
        """Return everything as JSON values, for another process to `merge`."""
        calls = {function.value: sorted(map(list, needs)) for function, needs in self.calls.items()}
        return {"calls": calls, "unmapped": sorted(self.unmapped)}

    def merge(self, told: Mapping[str, Any]) -> None:
        """Add what another process recorded."""
        for function, needs in told["calls"].items():
            self._add(FunctionName(function), [Need(*each) for each in needs])
        self.unmapped.update(told["unmapped"])


recorder = Recorder()
"""Recorder of this process; `install` starts it."""


@contextmanager
def at_work(function: FunctionName) -> Iterator[None]:
    """Let a test call what a function calls, as its own: for ways of it that no entry goes in the ring."""
    token = _at_work.set(function)
    try:
        yield
    finally:
        _at_work.reset(token)


def install() -> None:
    """Start recording in this process; once."""
    if any(isinstance(finder, _EntryFinder) for finder in sys.meta_path):
        return
    # Local: it takes a third of a second, for which tests of no function need not wait.
    import botocore.handlers

    hooks: list[tuple[str, Callable[..., None]]] = [
        ("before-parameter-build", recorder.before),
        ("after-call", recorder.after),
    ]
    botocore.handlers.BUILTIN_HANDLERS.extend(hooks)
    sys.meta_path.insert(0, _EntryFinder())
    for name in ENTRIES:
        if name in sys.modules:
            _wrap_entry(sys.modules[name])
    _let_threads_inherit()
    _hear_pushes()


class _EntryFinder(importlib.abc.MetaPathFinder):
    """Finds modules as Python does, and wraps the entries of functions."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in ENTRIES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_wrap(module: ModuleType) -> None:
            load(module)
            _wrap_entry(module)

        spec.loader.exec_module = load_and_wrap  # type: ignore[method-assign]
        return spec


def _wrap_entry(module: ModuleType) -> None:
    attribute, function = ENTRIES[module.__name__]
    entry = getattr(module, attribute)
    setattr(module, attribute, (_at_app if attribute == "app" else _at_handler)(entry, function))


def _at_handler(entry: Callable[..., Any], function: FunctionName) -> Callable[..., Any]:
    def at_work(*args: Any, **more: Any) -> Any:
        token = _at_work.set(function)
        try:
            return entry(*args, **more)
        finally:
            _at_work.reset(token)

    return at_work


def _at_app(entry: Callable[..., Any], function: FunctionName) -> Callable[..., Any]:
    async def at_work(*args: Any, **more: Any) -> Any:
        token = _at_work.set(function)
        try:
            return await entry(*args, **more)
        finally:
            _at_work.reset(token)

    return at_work


def _hear_pushes() -> None:
    from karma.integrations.pushes import PushClient  # local, as above

    send = PushClient.send_all

    def heard(self: Any, messages: Sequence[tuple[str, bytes]]) -> Any:
        if messages:
            recorder.without_botocore("apigatewaymanagementapi", "PostToConnection")
        return send(self, messages)

    PushClient.send_all = heard  # type: ignore[method-assign]


def _let_threads_inherit() -> None:
    """Give new threads, which begin without a context, the name of the function, and nothing else of it."""
    submit, start = concurrent.futures.ThreadPoolExecutor.submit, threading.Thread.start

    def submit_here(self: Any, work: Callable[..., Any], /, *args: Any, **more: Any) -> Any:
        function = _at_work.get()
        return submit(self, work if function is None else _at_handler(work, function), *args, **more)

    def start_here(self: threading.Thread) -> None:
        function = _at_work.get()
        if function is not None:
            self.run = _at_handler(self.run, function)  # type: ignore[method-assign]
        start(self)

    concurrent.futures.ThreadPoolExecutor.submit = submit_here  # type: ignore[method-assign]
    threading.Thread.start = start_here  # type: ignore[method-assign]

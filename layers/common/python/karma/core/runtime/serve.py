"""The life of an execution environment that serves an ASGI app.

    import the app --fails--> init/error, exit 1
    SnapStart only: before-hooks, restore/next --fail--> init/error, exit 64
                    after-hooks                --fail--> restore/error, exit 65
    for ever: next -> the app -> response          (a failed app costs its invocation, never the process)

The event loop runs during invocations only. Tasks that an app leaves running after its response pause until the next
one, as everything in Lambda does. The ASGI lifespan protocol is not run: Lambda has no shutdown to pair it with, and
whatever a startup would open, SnapStart would clone.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from typing import Never, cast

from karma.core.runtime import snapshot
from karma.core.runtime.client import Invocation, ResponseStream, RuntimeApi
from karma.core.runtime.exchange import Exchange, ProtocolViolation
from karma.core.runtime.faults import (
    AFTER_RESTORE_ERROR,
    BEFORE_SNAPSHOT_ERROR,
    HANDLER_NOT_FOUND,
    IMPORT_ERROR,
    UNSUPPORTED_EVENT,
    Fault,
    log_fault,
)
from karma.core.runtime.scope import AsgiApp, Request, UnsupportedEvent, to_request

_TRACE_ID = "_X_AMZN_TRACE_ID"
_INIT_FAILED = 1
_BEFORE_SNAPSHOT_FAILED = 64
_AFTER_RESTORE_FAILED = 65


class AppNotFound(RuntimeError):
    """The module has no callable of that name."""


def load_app(target: str) -> AsgiApp:
    """Import and return the app at `module:attribute`.

    Raises:
        AppNotFound: the text is not of that form, or the attribute is missing or not callable.
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise AppNotFound(f"{target!r} is not of the form module:attribute")
    app = getattr(import_module(module), attribute, None)
    if not callable(app):
        raise AppNotFound(f"module {module!r} has no callable {attribute!r}")
    return cast(AsgiApp, app)


def serve_forever(target: str, address: str) -> Never:
    """Serve the app at `module:attribute` from the Runtime API at `host:port`; leaves only by an exception."""
    with closing(RuntimeApi(address)) as api:
        app = _initialise(api, target)
        if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
            _pass_through_snapshot(api)
        with asyncio.Runner() as runner:
            # Not runner.run: it swaps the SIGINT handler around every call.
            loop = runner.get_loop()
            while True:
                invocation = api.next()
                _set_trace(invocation.trace_id)
                request = _read(api, invocation)
                if request is not None:
                    loop.run_until_complete(answer(app, request, api.response(invocation)))


async def answer(app: AsgiApp, request: Request, stream: ResponseStream) -> None:
    """Run the app for one request and deliver what it sends.

    Raises:
        OSError: the Runtime API cannot be reached.
        RuntimeApiRefused: the Runtime API did not accept the answer.
    """
    exchange = Exchange(request.body, stream)
    try:
        await app(request.scope, exchange.receive, exchange.send)
        if not exchange.is_complete:
            raise ProtocolViolation("the app returned without completing its response")
    except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001 - process edge: this costs one invocation only
        fault = Fault.of(exc)
        log_fault("invocation.failed", fault, {"request_id": request.request_id})
        if not exchange.is_complete and not stream.broken:
            await exchange.fail(fault)
            await stream.settle()
            stream.forget_connection()
            return
    await stream.settle()


def _read(api: RuntimeApi, invocation: Invocation) -> Request | None:
    """Return the request of an invocation; None, after reporting an error, when the event is not an HTTP request."""
    try:
        return to_request(invocation)
    except UnsupportedEvent as exc:
        fault = Fault.of(exc, UNSUPPORTED_EVENT)
        log_fault("invocation.unsupported", fault, {"request_id": invocation.request_id})
        api.post_error(invocation, fault)
        return None


def _initialise(api: RuntimeApi, target: str) -> AsgiApp:
    # Import allocates for good: collecting in between finds nothing, and frozen objects are never scanned again.
    gc.disable()
    try:
        app = load_app(target)
    except BaseException as exc:  # noqa: BLE001 - the process edge: also sys.exit() at import is an init failure
        _die(Fault.of(exc, _INIT_ERROR_TYPES.get(type(exc), "")), api.post_init_error, _INIT_FAILED)
    gc.freeze()
    gc.enable()
    return app


_INIT_ERROR_TYPES: dict[type[BaseException], str] = {
    AppNotFound: HANDLER_NOT_FOUND,
    ImportError: IMPORT_ERROR,
    ModuleNotFoundError: IMPORT_ERROR,
}


def _pass_through_snapshot(api: RuntimeApi) -> None:
    try:
        snapshot.run_before_snapshot()
        api.restore_next()
    except BaseException as exc:  # noqa: BLE001 - the process edge
        _die(Fault.of(exc, BEFORE_SNAPSHOT_ERROR), api.post_init_error, _BEFORE_SNAPSHOT_FAILED)
    try:
        snapshot.run_after_restore()
    except BaseException as exc:  # noqa: BLE001 - the process edge
        _die(Fault.of(exc, AFTER_RESTORE_ERROR), api.post_restore_error, _AFTER_RESTORE_FAILED)


def _die(fault: Fault, report: Callable[[Fault], None], exit_code: int) -> Never:
    log_fault("init.failed", fault, {})
    report(fault)
    raise SystemExit(exit_code)


def _set_trace(trace_id: str) -> None:
    if trace_id:
        os.environ[_TRACE_ID] = trace_id
    else:
        os.environ.pop(_TRACE_ID, None)

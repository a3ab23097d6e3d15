"""One execution environment: a bootstrap process and the Runtime API server that only it knows."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from local import cross_origin
from local.streamhost.http1 import HEAD_LIMIT, BadRequest, BodyReader, RequestHead, read_head, response_head
from local.streamhost.invocation import BUFFERED_LIMIT, AnswerTooLarge, Invocation

logger = logging.getLogger("local.streamhost")

_ROOT = "/2018-06-01/runtime"
_STOP_GRACE_S = 3.0
# A function sees what Lambda would show it and its own settings, not whatever the developer's shell exports.
_INHERITED = (
    "PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "KARMA_LOCAL_ENVIRONMENT",  # by which the next start finds what was left behind
)  # fmt: skip


@dataclass(frozen=True)
class FunctionSpec:
    """The function to run: its code, its settings, its limits."""

    function_dir: Path
    """Folder with the executable `bootstrap`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    python_path: tuple[Path, ...] = ()
    """Import roots in place of the function's layers."""
    handler: str = "agent_stream.app:app"
    name: str = "agent-stream"
    timeout_s: float = 900
    init_timeout_s: float = 30
    log_file: Path | None = None
    """File for the workers' stdout and stderr; None: this process's stderr."""


class Worker:
    """Runs one invocation at a time; never restarted, only replaced."""

    def __init__(self, spec: FunctionSpec, on_exit: Callable[[Worker], None]) -> None:
        self._spec = spec
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._offered: asyncio.Queue[Invocation | None] = asyncio.Queue()
        self._current: Invocation | None = None
        self._idle = asyncio.Event()
        self.was_ready = False
        self.was_stopped = False
        """Its end was requested, so it does not mean that the next one would fail to start."""
        self.dead = False

    async def start(self) -> None:
        """Start the process; `run` waits until it is ready."""
        # A start that is cancelled while asyncio itself binds and listens would leave the socket open.
        bound = socket.create_server(("127.0.0.1", 0))
        server = await asyncio.start_server(self._accept, sock=bound, limit=HEAD_LIMIT, start_serving=False)
        port = bound.getsockname()[1]
        try:
            await server.start_serving()
            with _open_log(self._spec.log_file) as log:
                self._process = await asyncio.create_subprocess_exec(
                    str(self._spec.function_dir / "bootstrap"),
                    cwd=self._spec.function_dir,
                    env=_environment(self._spec, port),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except BaseException:
            server.close()
            raise
        self._watcher = asyncio.create_task(self._watch(self._process, server))

    async def run(self, invocation: Invocation) -> None:
        """Run one invocation; returns when the process asks for the next one, or is dead."""
        try:
            async with asyncio.timeout(self._spec.init_timeout_s):
                await self._idle.wait()
            if not self.dead:
                self._idle.clear()
                self._current = invocation
                self._offered.put_nowait(invocation)
                async with asyncio.timeout(self._spec.timeout_s):
                    await self._idle.wait()
        except TimeoutError:
            await invocation.fail("timed out")
            await self.stop()
        self._current = None
        if self.dead:
            await self._end_handlers()
        await invocation.fail("the worker exited" if self.dead else "the worker asked for more before it answered")

    async def stop(self) -> None:
        """End the process, by SIGTERM and then SIGKILL, and its Runtime API."""
        self.was_stopped = True
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_GRACE_S)
            except TimeoutError:
                self._process.kill()
        if self._watcher is not None:
            await self._watcher
        await self._end_handlers()

    async def _watch(self, process: asyncio.subprocess.Process, server: asyncio.Server) -> None:
        code = await process.wait()
        logger.info("worker %d exited with %d", process.pid, code)
        self.dead = True
        self._idle.set()
        self._offered.put_nowait(None)
        server.close()
        self._on_exit(self)

    async def _end_handlers(self) -> None:
        """Let what the dead process sent reach the caller, for a limited time: the caller may not be reading."""
        if self._handlers:
            _, late = await asyncio.wait(self._handlers, timeout=_STOP_GRACE_S)
            for task in late:
                task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await read_head(reader)) is not None:
                writer.write(await self._handle(request, BodyReader(reader, request)))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, BadRequest) as exc:
            logger.info("a worker's connection ended: %r", exc)
        finally:
            writer.close()

    async def _handle(self, request: RequestHead, body: BodyReader) -> bytes:
        if why := cross_origin.refusal(request.headers, method=request.method):
            await body.discard()
            return _json_reply(403, {"errorType": "Forbidden", "errorMessage": why})
        path = request.target.removeprefix(_ROOT)
        if (request.method, path) == ("GET", "/invocation/next"):
            return await self._next()
        if request.method == "POST" and path in ("/init/error", "/restore/error"):
            logger.error(
                "the function cannot start: %s", (await body.read_all(BUFFERED_LIMIT)).decode("utf-8", "replace")
            )
            return _json_reply(202, {"status": "OK"})
        match path.strip("/").split("/"):
            case ["invocation", request_id, "response" | "error" as kind] if request.method == "POST":
                return await self._answer(request_id, kind, request, body)
        await body.discard()
        return _json_reply(404, {"errorType": "NotFound", "errorMessage": f"no such call: {path}"})

    async def _next(self) -> bytes:
        self.was_ready = True
        self._idle.set()
        invocation = await self._offered.get()
        if invocation is None:
            raise ConnectionResetError("the worker exited while it waited")
        headers = [
            ("Lambda-Runtime-Aws-Request-Id", invocation.request_id),
            ("Lambda-Runtime-Deadline-Ms", str(round((time.time() + self._spec.timeout_s) * 1000))),
            (
                "Lambda-Runtime-Invoked-Function-Arn",
                f"arn:aws:lambda:us-east-1:000000000000:function:{self._spec.name}",
            ),
            ("Lambda-Runtime-Trace-Id", invocation.trace_id),
            ("Lambda-Runtime-Invocation-Id", invocation.request_id),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(invocation.event))),
        ]
        return response_head(200, headers) + invocation.event

    async def _answer(self, request_id: str, kind: str, request: RequestHead, body: BodyReader) -> bytes:
        invocation = self._current
        if invocation is None or invocation.taken or invocation.request_id != request_id:
            await body.discard()
            return _json_reply(400, {"errorType": "InvalidRequestID", "errorMessage": "Invalid request ID"})
        if kind == "error":
            invocation.taken = True
            reason = (await body.read_all(BUFFERED_LIMIT)).decode("utf-8", "replace")
            await invocation.fail(f"{request.header('lambda-runtime-function-error-type')}: {reason}")
            return _json_reply(202, {"status": "OK"})
        try:
            await invocation.relay(request, body)
        except AnswerTooLarge:
            return _json_reply(413, {"errorType": "ResponseSizeTooLarge", "errorMessage": "over 6 MB"})
        return _json_reply(202, {"status": "OK"})


def _json_reply(status: int, body: Mapping[str, str]) -> bytes:
    payload = json.dumps(body).encode()
    return (
        response_head(status, [("Content-Type", "application/json"), ("Content-Length", str(len(payload)))]) + payload
    )


def _open_log(path: Path | None) -> BinaryIO:
    return os.fdopen(os.dup(sys.stderr.fileno()), "wb") if path is None else path.open("ab")


def _environment(spec: FunctionSpec, port: int) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    path = os.pathsep.join(map(str, spec.python_path))
    return {
        **inherited,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PYTHONPATH": path,
        "KARMA_PYTHON": sys.executable,
        "TZ": ":UTC",
        "AWS_LAMBDA_FUNCTION_NAME": spec.name,
        **spec.environment,
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{spec.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": uuid.uuid4().hex,
        "LAMBDA_TASK_ROOT": str(spec.function_dir),
        "_HANDLER": spec.handler,
    }

"""Lambda's Runtime API for one process: it asks for invocations, and answers them.

AWS: "Using the Lambda runtime API"; paths below `/2018-06-01/runtime`:

    GET  /invocation/next                blocks until there is one
    POST /invocation/{id}/response       its answer; a streamed one comes in chunks
    POST /invocation/{id}/error          its failure
    POST /init/error                     the process cannot start

Standard library only: it runs inside LocalStack's interpreter.
"""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer

_ROOT = "/2018-06-01/runtime"
_ANSWERED = re.compile(_ROOT + r"/invocation/([^/]+)/(response|error)")
LIMIT_BYTES = 6 * 1024 * 1024
"""Largest answer of a function in bytes."""


@dataclass(frozen=True)
class Answer:
    """Result of a function, or its error (`errorType` and `errorMessage` as JSON)."""

    payload: bytes
    is_error: bool


@dataclass(frozen=True)
class Invocation:
    """An invocation that the process handles."""

    request_id: str
    payload: bytes
    headers: Mapping[str, str]
    answer: Future[Answer] = field(default_factory=Future)


def failure(kind: str, message: str) -> Answer:
    """Return a failure as Lambda itself words it."""
    return Answer(json.dumps({"errorType": kind, "errorMessage": message}).encode(), is_error=True)


class RuntimeApi:
    """Runtime API on a port of its own, for one process; takes one invocation at a time."""

    def __init__(self) -> None:
        self.ready: Future[None] = Future()
        """Done when the process asks for its first invocation; fails with `InitFailed`."""
        self._waiting: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self._current: Invocation | None = None
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="runtime-api", daemon=True).start()

    @property
    def address(self) -> str:
        """Return the value of AWS_LAMBDA_RUNTIME_API."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def offer(self, invocation: Invocation) -> None:
        """Give the process something to do."""
        self._current = invocation
        self._waiting.put(invocation)

    def process_ended(self, reason: str) -> None:
        """Fail the invocations that wait for the process."""
        if not self.ready.done():
            self.ready.set_exception(InitFailed(failure("Runtime.ExitError", reason)))
        current = self._current
        if current is not None:
            text = f"RequestId: {current.request_id} Error: {reason}"
            self.finish(current.request_id, failure("Runtime.ExitError", text))

    def close(self) -> None:
        """Let the process's last request end, and free the port."""
        self._waiting.put(None)
        self._server.shutdown()
        self._server.server_close()

    # Called by the process's requests

    def next(self) -> Invocation | None:
        """Wait for an invocation; none when the server closes."""
        if not self.ready.done():
            self.ready.set_result(None)
        return self._waiting.get()

    def finish(self, request_id: str, answer: Answer) -> None:
        """Take the answer of the current invocation; a late one of another is dropped."""
        current = self._current
        if current is None or current.request_id != request_id or current.answer.done():
            return
        if len(answer.payload) > LIMIT_BYTES:
            size = f"{len(answer.payload)} bytes) exceeded maximum allowed payload size ({LIMIT_BYTES} bytes)."
            answer = failure("Function.ResponseSizeTooLarge", f"Response payload size ({size}")
        current.answer.set_result(answer)

    def fail_init(self, body: bytes) -> None:
        """Take the reason why the process cannot start."""
        if not self.ready.done():
            self.ready.set_exception(InitFailed(Answer(body, is_error=True)))


class InitFailed(Exception):
    """The process cannot start; `answer` is the one that Lambda gives its callers."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.payload.decode(errors="replace"))
        self.answer = answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: RuntimeApi) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api

    def handle_error(self, *_: object) -> None:
        """Say nothing: the process was killed in the middle of a request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: BaseServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path != f"{_ROOT}/invocation/next":
            self._reply(404)
            return
        invocation = self._api.next()
        if invocation is None:
            self.close_connection = True
            return
        self._reply(200, invocation.payload, invocation.headers)

    def do_POST(self) -> None:
        body = self._body()
        answered = _ANSWERED.fullmatch(self.path)
        if self.path == f"{_ROOT}/init/error":
            self._api.fail_init(body)
        elif answered:
            self._api.finish(answered[1], Answer(body, is_error=answered[2] == "error"))
        else:
            self._reply(404)
            return
        self._reply(202, b'{"status":"OK"}')

    @property
    def _api(self) -> RuntimeApi:
        assert isinstance(self.server, _Server)
        return self.server.api

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        # Trailers: a streamed answer that broke off says so there. Its callers get what came, as they do in AWS.
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

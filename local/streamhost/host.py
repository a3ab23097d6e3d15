"""The local function URL: an HTTP server whose requests become invocations of real bootstrap processes, streamed back.

    client -> front server -> event -> worker's Runtime API -> bootstrap process
    client <- chunk <-------- chunk <- POST …/response <------ app

Like AWS: 413 over 6 MB, 429 over the concurrency limit, 502 for an answer that cannot be read, a closed connection for
a failure after the first byte. A client that disconnects stops nothing: the answer is read to its end and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from infra.constructs.cors import REQUEST_HEADERS, RESPONSE_HEADERS
from local import cross_origin
from local.origins import is_allowed
from local.streamhost.events import function_url_event
from local.streamhost.http1 import (
    HEAD_LIMIT,
    READ_BYTES,
    BadRequest,
    BodyReader,
    BodyTooLarge,
    ClientResponse,
    RequestHead,
    read_head,
)
from local.streamhost.invocation import Invocation
from local.streamhost.pool import Throttled, WorkerPool
from local.streamhost.worker import FunctionSpec

logger = logging.getLogger("local.streamhost")

REQUEST_LIMIT = 6 * 1024 * 1024
WORKER_LIMIT = 24
_LINGER_S = 5.0
_CORS_MAX_AGE_S = "300"
_JSON = ("content-type", "application/json")


@dataclass(frozen=True)
class HostConfig:
    """Port, CORS and concurrency limits of the host."""

    function: FunctionSpec
    port: int = 0
    """Port on the loopback interface; 0: a free one."""
    prewarm: int = 1
    max_workers: int = WORKER_LIMIT
    allow_origins: tuple[str, ...] = ()
    """Origins of the function URL's CORS setting, or `*`; (): no CORS."""


class StreamHost:
    """The server as an async context manager; it serves between enter and exit, and leaves no process."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._pool = WorkerPool(config.function, prewarm=config.prewarm, limit=config.max_workers)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Return the address to call, without a path."""
        if self._server is None:
            raise RuntimeError("the host has not been started")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def workers(self) -> int:
        """Return the number of live worker processes."""
        return self._pool.size

    async def __aenter__(self) -> Self:
        bootstrap = self._config.function.function_dir / "bootstrap"
        if not os.access(bootstrap, os.X_OK):
            raise FileNotFoundError(f"{bootstrap} is missing or not executable")
        await self._pool.start()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._config.port, limit=HEAD_LIMIT)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        # First what could still start a worker, then the workers.
        running = tuple(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._pool.close()

    def renew(self) -> None:
        """Restart workers, since their code has changed; answers under way are finished first."""
        self._keep(asyncio.create_task(self._pool.renew()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await read_head(reader)) is not None:
                response = ClientResponse(writer, request)
                await self._serve_request(request, reader, writer, response)
                if not response.keep_alive:
                    break
        except BadRequest as exc:
            head = RequestHead("GET", "/", "HTTP/1.1", (("connection", "close"),))
            await ClientResponse(writer, head).answer(400, [_JSON], b'{"Message":"Bad Request"}')
            await _linger(reader, writer)
            logger.info("refused a request: %s", exc)
        except (ConnectionError, asyncio.IncompleteReadError):
            logger.info("a client left in the middle of its request")
        finally:
            writer.close()

    async def _serve_request(
        self,
        request: RequestHead,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        response: ClientResponse,
    ) -> None:
        if why := cross_origin.refusal(
            request.headers, method=request.method, kind=cross_origin.Kind.VISIT, origins=self._config.allow_origins
        ):
            response.keep_alive = False
            await response.answer(403, [_JSON], cross_origin.body(why))
            await _linger(reader, writer)
            return
        cors = self._cors(request)
        body = BodyReader(reader, request)
        if "100-continue" in request.header("expect").lower() and body.declared_length <= REQUEST_LIMIT:
            await response.proceed()
        try:
            payload = await body.read_all(REQUEST_LIMIT)
        except BodyTooLarge:
            response.keep_alive = False
            await response.answer(413, [_JSON, *cors], b'{"Message":"Request Entity Too Large"}')
            await _linger(reader, writer)
            return
        if (
            request.method == "OPTIONS"
            and self._config.allow_origins
            and request.header("access-control-request-method")
        ):
            await response.answer(200, [*cors, *_preflight(request)] if cors else [], b"")
            return
        source_ip = str(writer.get_extra_info("peername")[0])
        await self._invoke(request, payload, response, source_ip, cors)

    async def _invoke(
        self,
        request: RequestHead,
        payload: bytes,
        response: ClientResponse,
        source_ip: str,
        cors: tuple[tuple[str, str], ...],
    ) -> None:
        try:
            worker = await self._pool.lease()
        except Throttled:
            await response.answer(429, [_JSON, *cors], b'{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User"}')
            return
        except OSError:
            logger.exception("the bootstrap cannot be started")
            await response.answer(502, [_JSON, *cors], b"Internal Server Error")
            return
        now = datetime.now(UTC)
        request_id = str(uuid.uuid4())
        trace_id = f"Root=1-{int(now.timestamp()):08x}-{secrets.token_hex(12)}"
        event = function_url_event(
            request, payload, source_ip=source_ip, request_id=request_id, trace_id=trace_id, now=now
        )
        edge = (("x-amzn-requestid", request_id), ("x-amzn-trace-id", trace_id), *cors)
        invocation = Invocation(request_id, trace_id, event, response, edge)
        self._keep(asyncio.create_task(self._pool.run(worker, invocation)))
        await invocation.answered.wait()

    def _cors(self, request: RequestHead) -> tuple[tuple[str, str], ...]:
        origin = request.header("origin")
        allowed = self._config.allow_origins
        if not origin or not is_allowed(origin, allowed):
            return ()
        # As the deployed function URL answers: for credentials too, so headers are named and never `*`.
        return (
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", ",".join(RESPONSE_HEADERS)),
            ("vary", "Origin"),
        )


def _preflight(request: RequestHead) -> list[tuple[str, str]]:
    return [
        ("access-control-allow-methods", request.header("access-control-request-method")),
        ("access-control-allow-headers", request.header("access-control-request-headers") or ",".join(REQUEST_HEADERS)),
        ("access-control-max-age", _CORS_MAX_AGE_S),
    ]


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Signal the end of the answer, then read on: closing at once would reset it for a client that still sends."""
    writer.write_eof()
    try:
        async with asyncio.timeout(_LINGER_S):
            while await reader.read(READ_BYTES):
                pass
    except TimeoutError:
        logger.info("a client went on sending a refused request")

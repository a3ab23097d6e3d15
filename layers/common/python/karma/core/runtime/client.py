"""Client of the Lambda Runtime API, version 2018-06-01: it sends the same as AWS's own clients.

    GET  /runtime/invocation/next             wait for work
    POST /runtime/invocation/<id>/response    the response, streamed in chunks
    POST /runtime/invocation/<id>/error       the invocation failed before a response was possible
    POST /runtime/init/error                  the function cannot start
    GET  /runtime/restore/next                SnapStart: take the snapshot here, return in each clone
    POST /runtime/restore/error               SnapStart: a clone cannot start

The bytes of a response match `aws-lambda-ric` 4.0.2 (tests/contract/runtime).
"""

from __future__ import annotations

from collections.abc import Mapping

from karma.core.records import Record
from karma.core.runtime.faults import ERROR_BODY_TRAILER, ERROR_TYPE_HEADER, Fault
from karma.core.runtime.wire import Reply, RuntimeConnection, chunk, last_chunk, request_head

HTTP_INTEGRATION = "application/vnd.awslambda.http-integration-response"
_OCTET_STREAM = "application/octet-stream"
_ROOT = "/2018-06-01/runtime"
_USER_AGENT = "karma-runtime/1"
_OK = 200
_ACCEPTED = 202


class RuntimeApiRefused(RuntimeError):
    """The Runtime API answered with a status that ends this execution environment."""

    def __init__(self, path: str, reply: Reply) -> None:
        super().__init__(f"{path} answered {reply.status}: {reply.body[:200]!r}")


class Invocation(Record):
    """One event with Lambda's data on its invocation."""

    request_id: str
    payload: bytes
    deadline_ms: int
    """Moment in milliseconds since the epoch at which Lambda stops the environment."""
    function_arn: str = ""
    trace_id: str = ""
    invocation_id: str = ""
    """Sent back with the answer when given, so that a late answer is not taken for another invocation's."""


class RuntimeApi:
    """The calls of this process to the Runtime API."""

    def __init__(self, address: str) -> None:
        """`address` is `host:port`; nothing is opened before the first call."""
        self._connection = RuntimeConnection(address)

    def next(self) -> Invocation:
        """Wait for the next invocation; Lambda freezes the process meanwhile.

        Raises:
            RuntimeApiRefused: the Runtime API answered with an error; the environment must end.
            OSError: the Runtime API cannot be reached.
        """
        reply = self._get(f"{_ROOT}/invocation/next")
        headers = reply.headers
        return Invocation(
            request_id=headers["lambda-runtime-aws-request-id"],
            payload=reply.body,
            deadline_ms=int(headers.get("lambda-runtime-deadline-ms", "0")),
            function_arn=headers.get("lambda-runtime-invoked-function-arn", ""),
            trace_id=headers.get("lambda-runtime-trace-id", ""),
            invocation_id=headers.get("lambda-runtime-invocation-id", ""),
        )

    def response(self, invocation: Invocation) -> ResponseStream:
        """Return the streamed response of an invocation; nothing is sent before its first write."""
        return ResponseStream(self._connection, invocation)

    def post_error(self, invocation: Invocation, fault: Fault) -> None:
        """Report that an invocation failed without a response."""
        self._post_fault(f"{_ROOT}/invocation/{invocation.request_id}/error", fault, _echo(invocation))

    def post_init_error(self, fault: Fault) -> None:
        """Report that the function cannot start; the process must exit after it."""
        self._post_fault(f"{_ROOT}/init/error", fault, {})

    def restore_next(self) -> None:
        """Say that the snapshot may be taken; returns in each clone, which then opens a connection of its own."""
        self._get(f"{_ROOT}/restore/next")
        self._connection.close()

    def post_restore_error(self, fault: Fault) -> None:
        """Report that a restored clone cannot start; the process must exit after it."""
        self._post_fault(f"{_ROOT}/restore/error", fault, {})

    def close(self) -> None:
        """Drop the connection."""
        self._connection.close()

    def _get(self, path: str) -> Reply:
        reply = self._connection.request("GET", path, headers={"User-Agent": _USER_AGENT})
        if reply.status != _OK:
            raise RuntimeApiRefused(path, reply)
        return reply

    def _post_fault(self, path: str, fault: Fault, echo: Mapping[str, str]) -> None:
        headers = {
            "User-Agent": _USER_AGENT,
            "Content-Type": "application/json",
            ERROR_TYPE_HEADER: fault.error_type,
            **echo,
        }
        reply = self._connection.request("POST", path, headers=headers, body=fault.body())
        if reply.status != _ACCEPTED:
            raise RuntimeApiRefused(path, reply)


class ResponseStream:
    """The response of one invocation, sent as it is made."""

    def __init__(self, connection: RuntimeConnection, invocation: Invocation) -> None:
        self._connection = connection
        self._invocation = invocation
        self.begun = False
        self.broken = False

    async def begin(self, prelude: bytes, body: bytes) -> None:
        """Send the headers, the prelude, and the first piece of the body if it has one.

        The prelude and its separator are chunks of their own, as in AWS's client; all of it leaves in one write.

        Raises:
            OSError: the Runtime API closed the connection.
        """
        pieces = chunk(prelude) + chunk(bytes(8))
        await self._start(HTTP_INTEGRATION, pieces + chunk(body) if body else pieces)

    async def write(self, body: bytes) -> None:
        """Send one piece of the body as a chunk of its own.

        Raises:
            OSError: the Runtime API closed the connection.
        """
        if body:
            await self._send(chunk(body))

    async def end(self) -> None:
        """End the body.

        Raises:
            OSError: the Runtime API closed the connection.
        """
        await self._send(last_chunk({}))

    async def fail(self, fault: Fault) -> None:
        """End the body with the error in its trailers; before the first byte, with nothing else.

        Raises:
            OSError: the Runtime API closed the connection.
        """
        ending = last_chunk(fault.trailers())
        if self.begun:
            await self._send(ending)
        else:
            await self._start(_OCTET_STREAM, ending)

    async def settle(self) -> None:
        """Wait until Lambda has taken the response; one that could not be sent whole drops the connection instead.

        Raises:
            OSError: the Runtime API cannot be reached.
            RuntimeApiRefused: the Runtime API did not accept the response.
        """
        if self.broken:
            self._connection.close()
            return
        reply = await self._connection.read_reply()
        if reply.status != _ACCEPTED:
            raise RuntimeApiRefused(self._path, reply)

    def forget_connection(self) -> None:
        """Use a new connection from here on: not every server reads the trailers off the one that carried them."""
        self._connection.close()

    @property
    def _path(self) -> str:
        return f"{_ROOT}/invocation/{self._invocation.request_id}/response"

    async def _start(self, content_type: str, pieces: bytes) -> None:
        headers = {
            "User-Agent": _USER_AGENT,
            "Lambda-Runtime-Function-Response-Mode": "streaming",
            "Trailer": f"{ERROR_TYPE_HEADER}, {ERROR_BODY_TRAILER}",
            "Content-Type": content_type,
            "Transfer-Encoding": "chunked",
            **_echo(self._invocation),
        }
        self.begun = True
        self._connection.start_streaming()
        await self._send(request_head("POST", self._path, self._connection.host, headers) + pieces)

    async def _send(self, data: bytes) -> None:
        try:
            await self._connection.write(data)
        except OSError:
            self.broken = True
            raise


def _echo(invocation: Invocation) -> dict[str, str]:
    return {"Lambda-Runtime-Invocation-Id": invocation.invocation_id} if invocation.invocation_id else {}

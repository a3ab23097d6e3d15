"""One invocation, from the request to the end of its answer, which the caller gets while the function still sends."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from dataclasses import dataclass, field

from local.streamhost.http1 import BadRequest, BodyReader, BodyTooLarge, ClientResponse, RequestHead
from local.streamhost.integration import HTTP_INTEGRATION, BadAnswer, PreludeReader, buffered_answer

logger = logging.getLogger("local.streamhost")

BUFFERED_LIMIT = 6 * 1024 * 1024
_ERROR_TYPE = "lambda-runtime-function-error-type"
_ERROR_BODY = "lambda-runtime-function-error-body"
_BAD_GATEWAY = 502


class AnswerTooLarge(Exception):
    """A buffered answer is over 6 MB."""


@dataclass
class Invocation:
    """An event for a worker, and the response to its caller."""

    request_id: str
    trace_id: str
    event: bytes
    response: ClientResponse
    edge_headers: tuple[tuple[str, str], ...] = ()
    """Headers that the function URL itself adds to the response."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nothing more will be sent to the caller; the worker may still run."""
    taken: bool = False
    """A worker's answer has begun; there can be only one."""

    async def relay(self, request: RequestHead, body: BodyReader) -> None:
        """Send a worker's answer to the caller while it arrives; always reads it to its end.

        Raises:
            AnswerTooLarge: a buffered answer is over 6 MB; the caller has been told.
        """
        self.taken = True
        try:
            if request.header("lambda-runtime-function-response-mode").lower() == "streaming":
                await self._relay_stream(request.header("content-type"), body)
            else:
                await self._relay_buffered(body)
        except BadAnswer as exc:
            await self.fail(f"bad answer: {exc}")
            await body.discard()
        except (asyncio.IncompleteReadError, ConnectionError, BadRequest):
            await self.fail("the worker's answer broke off")
        finally:
            self.answered.set()

    async def fail(self, reason: str) -> None:
        """Report the failure to the caller: 502, or a closed connection once the response has begun."""
        if self.answered.is_set() or self.response.ended:
            return
        logger.error("invocation %s failed: %s", self.request_id, reason)
        if self.response.started:
            self.response.cut()
        else:
            await self.response.answer(_BAD_GATEWAY, self._headers("application/json"), b"Internal Server Error")
        self.answered.set()

    def _headers(self, content_type: str) -> list[tuple[str, str]]:
        return [("content-type", content_type), *self.edge_headers]

    async def _relay_stream(self, content_type: str, body: BodyReader) -> None:
        prelude = PreludeReader() if content_type.lower() == HTTP_INTEGRATION else None
        while piece := await body.read():
            if not self.response.started and prelude is not None:
                parsed = prelude.feed(piece)
                if parsed is None:
                    continue
                head, piece = parsed
                await self.response.start(head.status, [*head.headers, *self.edge_headers])
            elif not self.response.started:
                await self.response.start(200, self._headers(content_type or "application/octet-stream"))
            await self.response.write(piece)
        if _ERROR_TYPE in body.trailers:
            await self.fail(f"{body.trailers[_ERROR_TYPE]}: {_decode(body.trailers.get(_ERROR_BODY, ''))}")
            return
        if not self.response.started:
            if prelude is not None:
                raise BadAnswer("the body ended before the prelude's separator")
            await self.response.start(200, self._headers(content_type or "application/octet-stream"))
        await self.response.end()

    async def _relay_buffered(self, body: BodyReader) -> None:
        try:
            payload = await body.read_all(BUFFERED_LIMIT)
        except BodyTooLarge as exc:
            await self.fail("a buffered answer is over 6 MB")
            await body.discard()
            raise AnswerTooLarge from exc
        head, data = buffered_answer(payload)
        await self.response.answer(head.status, [*head.headers, *self.edge_headers], data)


def _decode(error_body: str) -> str:
    try:
        return base64.b64decode(error_body, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return error_body

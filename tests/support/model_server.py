"""A loopback server that answers `POST /v1/messages` with scripted bytes, for the real anthropic SDK to read.

A request that breaks the Messages API's rules (local/messages_api/rules.py) is answered 400 and noted in `refused`; the
scripted answer stays for the next one.

with ModelServer() as server:
    server.answer(*message(text("Hel", "lo")))
"""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from local.messages_api.front import refused


def sse(kind: str, **body: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **body})}\n\n".encode()


def unmarked(value: Any) -> Any:
    """Return what was sent without the marks of the provider's cache."""
    if isinstance(value, list):
        return [unmarked(each) for each in value]
    if isinstance(value, dict):
        return {name: unmarked(each) for name, each in value.items() if name != "cache_control"}
    return value


def text(*deltas: str) -> list[dict[str, Any]]:
    return [
        {"content_block": {"type": "text", "text": ""}},
        *({"delta": {"type": "text_delta", "text": delta}} for delta in deltas),
    ]


def tool_use(call_id: str, name: str, *parts: str) -> list[dict[str, Any]]:
    return [
        {"content_block": {"type": "tool_use", "id": call_id, "name": name, "input": {}}},
        {"delta": {"type": "input_json_delta", "partial_json": ""}},
        *({"delta": {"type": "input_json_delta", "partial_json": part}} for part in parts),
    ]


def searched(call_id: str, query: str, *, found: bool = True) -> list[list[dict[str, Any]]]:
    """Return the blocks of a search that the API makes itself; without its result where the turn pauses before."""
    call: list[dict[str, Any]] = [
        {"content_block": {"type": "server_tool_use", "id": call_id, "name": "web_search", "input": {}}},
        {"delta": {"type": "input_json_delta", "partial_json": json.dumps({"query": query})}},
    ]
    page = {"type": "web_search_result", "url": "https://example.com", "title": "A page", "encrypted_content": "x"}
    result = {"type": "web_search_tool_result", "tool_use_id": call_id, "content": [page]}
    return [call, [{"content_block": result}]] if found else [call]


def thinking(*deltas: str, signature: str) -> list[dict[str, Any]]:
    return [
        {"content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        *({"delta": {"type": "thinking_delta", "thinking": delta}} for delta in deltas),
        {"delta": {"type": "signature_delta", "signature": signature}},
    ]


def message(
    *blocks: Sequence[dict[str, Any]],
    stop_reason: str = "end_turn",
    usage: dict[str, int] | None = None,
    output_tokens: int = 7,
) -> list[bytes]:
    """Return the events of one streamed answer as the API sends them."""
    started: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 11, "output_tokens": 1, **(usage or {})},
    }
    chunks = [sse("message_start", message=started), sse("ping")]
    for index, block in enumerate(blocks):
        chunks.append(sse("content_block_start", index=index, **block[0]))
        chunks += [sse("content_block_delta", index=index, **each) for each in block[1:]]
        chunks.append(sse("content_block_stop", index=index))
    return [
        *chunks,
        sse("message_delta", delta={"stop_reason": stop_reason}, usage={"output_tokens": output_tokens}),
        sse("message_stop"),
    ]


@dataclass
class Answer:
    chunks: Sequence[bytes]
    status: int = 200
    cut: bool = False
    """Close the connection without ending the chunked body."""
    hold: threading.Event | None = None
    """Event that is waited for before the last chunk; None: no wait."""


@dataclass
class ModelServer:
    answers: list[Answer] = field(default_factory=list)
    choose: Callable[[dict[str, Any]], Iterable[bytes] | Answer] | None = None
    """Makes the answer of a request instead of `answers`; None: they are given in order."""
    rules: Callable[[bytes], bytes | None] = refused
    """Returns the answer to a body that breaks the API's rules; None: it holds."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Broken rules of the requests that were refused."""
    headers: list[dict[str, str]] = field(default_factory=list)
    peers: list[Any] = field(default_factory=list)
    """Address of each request's connection."""

    def __post_init__(self) -> None:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                owner.requests.append(json.loads(body))
                owner.peers.append(self.client_address)
                owner.headers.append({name.lower(): value for name, value in self.headers.items()})
                wrong = owner.rules(body)
                if wrong is not None:
                    owner.refused.append(json.loads(wrong)["error"]["message"])
                owner._reply(self, owner._next(owner.requests[-1]) if wrong is None else Answer([wrong], 400))

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def _next(self, request: dict[str, Any]) -> Answer:
        if self.choose is None:
            return self.answers.pop(0)
        made = self.choose(request)
        return made if isinstance(made, Answer) else Answer(list(made))

    def answer(
        self,
        chunks: Iterable[bytes],
        *,
        status: int = 200,
        cut: bool = False,
        hold: threading.Event | None = None,
    ) -> None:
        self.answers.append(Answer(list(chunks), status, cut, hold))

    def fail(self, status: int, error_type: str, *, times: int = 1) -> None:
        body = json.dumps({"type": "error", "error": {"type": error_type, "message": "secret provider text"}})
        for _ in range(times):
            self.answer([body.encode()], status=status)

    @staticmethod
    def _reply(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        handler.send_response(answer.status)
        if answer.status != 200:
            body = b"".join(answer.chunks)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(body)))
            handler.send_header("retry-after-ms", "1")
            handler.end_headers()
            handler.wfile.write(body)
            return
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        try:
            for i, chunk in enumerate(answer.chunks):
                if answer.hold is not None and i == len(answer.chunks) - 1:
                    answer.hold.wait(10)
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                handler.wfile.flush()
            if not answer.cut:
                handler.wfile.write(b"0\r\n\r\n")
            else:
                handler.close_connection = True
        except OSError:
            handler.close_connection = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

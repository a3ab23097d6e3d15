"""The offline model: refuses requests that the models' APIs would refuse, and lets aimock answer the others.

aimock answers anything that is shaped like a conversation. This program starts it on a port of its own, checks each
`POST /v1/messages` against `rules.refusal` and each `POST /v1/chat/completions` against `chat_rules.chat_refusal`, and
passes on what holds, bytes as they come, so that answers still stream.
Health is passed on as it is, and so is the rest (the journal of requests, faults that tests ask for) for programs that
say that they mean it (`local.cross_origin.Kind.CONTROL`).

    python -m local.messages_api.front PORT NODE SCRIPT [arguments of the script after its port]

It ends, and aimock with it, at SIGTERM or when aimock ends.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from local.cross_origin import Kind, refuse
from local.messages_api.chat_rules import chat_refusal
from local.messages_api.rules import refusal

_HOST = "127.0.0.1"
_TIMEOUT_S = 600.0
_CHUNK_BYTES = 64 * 1024
_OPEN = frozenset({"/health", "/v1/messages", "/v1/chat/completions"})
"""Paths of the models' APIs and of the health check; other paths control the model, or show its requests."""
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host"})
_CREDENTIALS = frozenset({"authorization", "x-api-key", "x-goog-api-key", "api-key", "xi-api-key"})
"""Headers by which aimock would know its caller, which is this program alone."""


def error_body(message: str, *, error_type: str = "invalid_request_error") -> bytes:
    """Return an error as the API writes it."""
    return json.dumps({"type": "error", "error": {"type": error_type, "message": message}}).encode()


def refused(body: bytes) -> bytes | None:
    """Return the API's answer with status 400 to a body that it refuses, None when it takes the body."""
    try:
        value = json.loads(body)
    except ValueError:
        return error_body("The request body is not valid JSON")
    message = refusal(value, size=len(body))
    return None if message is None else error_body(message)


def chat_refused(body: bytes) -> bytes | None:
    """Return OpenAI's answer with status 400 to a body that it refuses, None when it takes the body."""
    try:
        message = chat_refusal(json.loads(body))
    except ValueError:
        message = "We could not parse the JSON body of your request"
    if message is None:
        return None
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return json.dumps({"error": error}).encode()


_REFUSALS: Mapping[str, Callable[[bytes], bytes | None]] = {
    "/v1/messages": refused,
    "/v1/chat/completions": chat_refused,
}
"""Rules by path."""


class _Front(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, behind: int, key: str) -> None:
        super().__init__((_HOST, port), _Handler)
        self.behind = behind
        self.key = key


class _Handler(BaseHTTPRequestHandler):
    server: _Front
    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        """Read the head of a request; answer it if `local.cross_origin` refuses it."""
        if not super().parse_request():
            return False
        return not refuse(self, Kind.CALL if self.path.partition("?")[0] in _OPEN else Kind.CONTROL)

    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_HEAD(self) -> None:
        self._pass_on(b"")

    def do_DELETE(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        rules = _REFUSALS.get(self.path.partition("?")[0])
        wrong = rules(body) if rules is not None else None
        if wrong is None:
            self._pass_on(body)
            return
        print(f"refused: {wrong.decode()}", flush=True)
        self._answer(400, wrong)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _pass_on(self, body: bytes) -> None:
        upstream = http.client.HTTPConnection(_HOST, self.server.behind, timeout=_TIMEOUT_S)
        replaced = _HOP_BY_HOP | _CREDENTIALS
        headers = {name: value for name, value in self.headers.items() if name.lower() not in replaced}
        headers["x-api-key"] = self.server.key
        self.close_connection = True
        try:
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
        except (OSError, http.client.HTTPException):
            self._answer(502, error_body("The model behind does not answer", error_type="api_error"))
            return
        try:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                # No page asks a model, and aimock would let all of them.
                if name.lower() not in _HOP_BY_HOP and not name.lower().startswith("access-control-"):
                    self.send_header(name, value)
            self.send_header("connection", "close")
            self.end_headers()
            while chunk := answer.read1(_CHUNK_BYTES):
                self.wfile.write(chunk)
        except http.client.IncompleteRead:
            self.connection.shutdown(socket.SHUT_RDWR)  # cut off there: cut off here
        except OSError:
            return  # the client has left
        finally:
            upstream.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
        pass


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM, or until the model behind ends."""
    port, (node, script, *more) = int(arguments[0]), arguments[1:]
    with socket.create_server((_HOST, 0)) as free:
        behind = free.getsockname()[1]
    # aimock listens too, on a port that anybody may guess.
    key = secrets.token_urlsafe(24)
    model = subprocess.Popen([node, script, str(behind), *more], env={**os.environ, "AIMOCK_API_KEYS": key})
    server = _Front(port, behind, key)

    def stop(_: int, __: FrameType | None) -> None:
        model.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    status = model.wait()
    server.shutdown()
    server.server_close()
    sys.exit(max(0, status))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Calls an ASGI app in process, as a server would."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]


@dataclass
class Exchange:
    """One request and what came back."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    query: bytes = b""
    extensions: Mapping[str, Any] = field(default_factory=dict)
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the test to leave."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each chunk."""

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    async def run(self, app: App) -> "Exchange":
        sent = False

        async def receive() -> Any:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": self.body, "more_body": False}
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert not self.status
                self.status = message["status"]
                self.answer_headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                assert self.status
                assert not self.complete
                if self.left.is_set():
                    raise OSError("the client has left")
                self.chunks.append(message.get("body", b""))
                self.arrived.set()
                self.complete = not message.get("more_body", False)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "https",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": self.headers,
            "client": ("203.0.113.7", 4711),
            "server": ("stream.example.com", 443),
            "extensions": dict(self.extensions),
        }
        await app(scope, receive, send)
        return self


def exchange(
    method: str,
    path: str,
    *,
    body: object = b"",
    headers: Mapping[str, str] | None = None,
    query: str = "",
    extensions: Mapping[str, Any] | None = None,
) -> Exchange:
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent.setdefault("content-type", "application/json")
    pairs = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in sent.items()]
    return Exchange(method, path, pairs, body, query.encode(), extensions or {})

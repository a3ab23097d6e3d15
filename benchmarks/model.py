"""A model server that streams scripted Messages events, so that only our side is measured.

The last user message's text has the parameters: `deltas=2000 pace_ms=20`, and with `steps=3` it asks for as many calls
of a tool before, one a turn. Each delta is 23 characters, of which the
first 19 are the time at which it was written (nanoseconds of the machine's monotonic clock), so that a client can tell
how long it took to arrive; with `size=65536` it is that many characters, and with `prose=1` it is a piece of this
project's decisions instead, for what is stored of it is compressed.

    python -m benchmarks.model      prints its address, serves until its input ends
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from functools import cache
from pathlib import Path

_ASKED = re.compile(rb"deltas=(\d+) pace_ms=(\d+)")
_STEPS = re.compile(rb"steps=(\d+)")
_SIZE = re.compile(rb"size=(\d+)")
_PROSE = b"prose=1"
_CHARS = 23
_RESULT = b'"tool_result"'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_BURST = 32
"""Unpaced deltas written at a time; a real model's socket combines them, too."""


def _event(kind: str, **data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


_START = _event(
    "message_start",
    message={
        "id": "msg_bench", "type": "message", "role": "assistant", "model": "bench", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 10, "output_tokens": 1},
    },
) + _event("content_block_start", index=0, content_block={"type": "text", "text": ""})  # fmt: skip
_END = (
    _event("content_block_stop", index=0)
    + _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 9})
    + _event("message_stop")
)

_CALL = (
    _event(
        "content_block_start",
        index=1,
        content_block={"type": "tool_use", "id": "toolu_%d", "name": "searchDatabase", "input": {}},
    )
    + _event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "{}"})
    + _event("content_block_stop", index=1)
    + _event("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 9})
    + _event("message_stop")
)


def _delta(size: int, said: str = "") -> bytes:
    text = json.dumps(said or f"{time.monotonic_ns():019d} abc".ljust(size))
    return (
        b"event: content_block_delta\ndata: "
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%b}}\n\n' % text.encode()
    )


@cache
def prose() -> list[str]:
    """Return a text in pieces as long as deltas."""
    folder = Path(__file__).parent.parent / "docs/adr"
    text = " ".join(path.read_text() for path in sorted(folder.glob("*.md")))
    return [text[at : at + _CHARS] for at in range(0, len(text), _CHARS)]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while await reader.readline():
            length = 0
            while (field := await reader.readline()) not in {b"\r\n", b""}:
                if field.lower().startswith(b"content-length:"):
                    length = int(field.partition(b":")[2])
            body = await reader.readexactly(length)
            asked = _ASKED.findall(body)
            deltas, pace_ms = (int(asked[-1][0]), int(asked[-1][1])) if asked else (5, 0)
            size = int(sizes[-1]) if (sizes := _SIZE.findall(body)) else 0
            writer.write(_HEAD + _chunk(_START))
            if pace_ms:
                for at in range(deltas):
                    writer.write(_chunk(_delta(size, prose()[at % len(prose())] if _PROSE in body else "")))
                    await asyncio.sleep(pace_ms / 1000)
            else:
                for start in range(0, deltas, _BURST):
                    writer.write(b"".join(_chunk(_delta(size)) for _ in range(min(_BURST, deltas - start))))
                    await writer.drain()
            done, steps = body.count(_RESULT), _STEPS.findall(body)
            end = _END
            if steps and done < int(steps[-1]):
                end = _event("content_block_stop", index=0) + _CALL.replace(b"toolu_%d", b"toolu_01%022d" % done)
            writer.write(_chunk(end) + b"0\r\n\r\n")
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Serve until standard input ends."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())

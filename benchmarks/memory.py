"""Measures the stream's process: memory at the most, by the requests that the limits allow, and CPU of a turn.

The function's own `bootstrap` runs under local/streamhost: one process, as in Lambda, which serves one request after
the other and keeps what it has once loaded. Peaks are the kernel's (VmHWM), set back before each case.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import statistics
import struct
import sys
import tempfile
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson
import psutil

from benchmarks.report import Row
from benchmarks.turns import SECONDS, STREAM_GB
from benchmarks.world import ROOT, World
from karma.core.freeform import MAX_VALUES
from karma.core.ids import new_id
from local.streamhost.host import HostConfig, StreamHost
from local.streamhost.worker import FunctionSpec
from local.waiting import until

_MB: Final = 1024 * 1024
ROOM: Final = 0.3
"""Share of the function's memory that the largest peak leaves free."""
_PEAK: Final = "peak memory: "
_WARM_RUNS: Final = 60
_BUSY_S: Final = 0.02
_CPU_RUNS: Final = 20
_ONE_VCPU_MB: Final = 1769
"""Memory with which Lambda gives a function one processor; with less it gives as much less."""
_MEDIA_BYTES: Final = 3_900_000
"""Bytes of an image that fits into a request, as base64."""
_TEXT_BYTES: Final = 250_000
"""Bytes of a message, near its limit."""
_WIDE: Final = "\U0001f600"
"""A character with which each of its text takes four bytes of memory."""


class _Stream:
    """A client of the function, and the memory of its process."""

    def __init__(self, url: str, process: psutil.Process, token: str) -> None:
        self._address = urlsplit(url)
        self._process = process
        self._token = token
        self.first_byte_cpu_s = 0.0
        """CPU of the process when the last answer began."""

    async def ask(self, method: str, path: str, body: object = None) -> bytes:
        """Send one request, once the one before has left the process, and return its whole answer."""
        while True:
            answer = await self._ask(method, path, body)
            if not answer.startswith(b"HTTP/1.1 429"):
                return answer
            await asyncio.sleep(_BUSY_S)

    async def _ask(self, method: str, path: str, body: object) -> bytes:
        data = b"" if body is None else orjson.dumps(body)
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        writer.write(
            b"%b %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: text/event-stream\r\n"
            b"authorization: Bearer %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            % (method.encode(), path.encode(), self._token.encode(), len(data))
        )
        writer.write(data)
        parts: list[bytes] = []
        while part := await reader.read(_MB):
            if not parts:
                self.first_byte_cpu_s = self.cpu_s
            parts.append(part)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return b"".join(parts)

    async def run(
        self, *messages: object, thread: str = "", ends: bytes = b"RUN_FINISHED", props: object = None
    ) -> str:
        """Run an agent on messages to its end; return the run's id."""
        run_id = new_id()
        said = [{"id": new_id(), "role": "user", "content": each} for each in messages]
        asked = {"messages": said, "tools": [], "context": [], "forwardedProps": props}
        body = {"threadId": thread or new_id(), "runId": run_id, **asked}
        answer = await self.ask("POST", "/api/agent", body)
        if ends not in answer:
            raise RuntimeError(f"the run ended otherwise: {answer[-500:]!r}")
        return run_id

    @property
    def cpu_s(self) -> float:
        """Return the CPU that the process has used."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def forget_peak(self) -> None:
        """Let the peak begin at what is resident now."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    @property
    def peak_mb(self) -> float:
        """Return the most that was resident since the peak was forgotten."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(world: World) -> list[Row]:
    """Return the peak of each case, in the order in which one process served them."""
    if sys.platform != "linux":
        raise RuntimeError("peaks of memory are read from Linux's /proc")
    return asyncio.run(_measure(world))


@asynccontextmanager
async def _served(world: World) -> AsyncGenerator[_Stream]:
    with tempfile.TemporaryDirectory() as folder:
        function = FunctionSpec(
            function_dir=ROOT / "functions/agent_stream",
            environment={**world.environment(replayed=False), "AWS_LAMBDA_FUNCTION_NAME": "bench"},
            python_path=(ROOT / "layers/common/python",),
            log_file=Path(folder) / "log",
        )
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        async with StreamHost(HostConfig(function, prewarm=1, max_workers=1)) as host:
            process = until(lambda: _runtime(before), deadline_s=30, what="start of the function's process")
            yield _Stream(host.url, process, world.tokens[0])


def _runtime(before: Collection[int]) -> psutil.Process | None:
    """Return the process that has become the function's since then; None: its shell still starts it."""
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.pid not in before and "karma.core.runtime" in each.cmdline():
                return each
    return None


async def _measure(world: World) -> list[Row]:
    rows: list[Row] = []
    world.client("s3").create_bucket(Bucket=world.values["FILES_BUCKET"])
    async with _served(world) as stream:

        async def case(name: str, count: int, work: Callable[[], Awaitable[object]]) -> None:
            stream.forget_peak()
            for _ in range(count):
                await work()
            rows.append(_row(name, stream.peak_mb))

        many = partial(stream.run, "deltas=5 pace_ms=0", props={"a": [_nested(50)] * (MAX_VALUES // 50 - 10)})
        chat, long, numbers = new_id(), new_id(), iter(range(100))
        await case(f"{_WARM_RUNS} runs", _WARM_RUNS, lambda: stream.run("deltas=100 pace_ms=0"))
        await case("a request of as many values as it may have", 1, many)
        await case("a request with an image of 4 MB", 1, lambda: stream.run(_image(next(numbers))))
        await case("a model that is shown images of 20 MB", 5, lambda: stream.run(_image(next(numbers)), thread=chat))
        await case("a conversation of 14 MB, the longest", 5, lambda: stream.run(*_texts(11), thread=long))
        await case("deltas of 64 KB, 2.5 MB in all", 1, lambda: stream.run("deltas=40 pace_ms=0 size=65536"))
        endless = partial(stream.run, "deltas=1600 pace_ms=0 size=65536", ends=b"ANSWER_TOO_LARGE")
        await case("a model that sends 100 MB", 1, endless)
        said = await stream.run("deltas=43000 pace_ms=0")
        joined = partial(stream.ask, "GET", f"/api/v1/runs/{said}/events?join=true")
        await case("a join of a run with a log of 1 MB", 1, joined)
        rows += await _cpu(stream)
        peak = max(float(row.measured.removesuffix(" MB")) for row in rows if row.metric.startswith(_PEAK))
    most = (1 - ROOM) * STREAM_GB * 1024
    return [*rows, Row("agent_stream", "peak memory of all these", f"{STREAM_GB * 1024:.0f} MB configured",
                       f"{peak:.0f} MB", f"<= {most:.0f} MB", peak <= most)]  # fmt: skip


def _row(name: str, peak_mb: float) -> Row:
    return Row("agent_stream", f"{_PEAK}{name}", "", f"{peak_mb:.0f} MB", "", None)


async def _cpu(stream: _Stream) -> list[Row]:
    begins, whole = [], []
    for _ in range(_CPU_RUNS):
        before = stream.cpu_s
        await stream.run("deltas=5 pace_ms=0")
        begins.append(stream.first_byte_cpu_s - before)
    for _ in range(2):
        before = stream.cpu_s
        await stream.run(f"deltas={50 * SECONDS} pace_ms=20")
        whole.append(stream.cpu_s - before)
    begun_ms, whole_ms = statistics.median(begins) * 1000, min(whole) * 1000
    share, used = 100 * STREAM_GB * 1024 / _ONE_VCPU_MB, whole_ms / (10 * SECONDS)
    return [
        Row("agent_stream", "CPU to a run's first byte", "", f"{begun_ms:.0f} ms", "", None),
        Row("agent_stream", f"CPU of a turn of {SECONDS} s", f"{share:.0f} % of a processor configured",
            f"{whole_ms:.0f} ms, {used:.1f} %", f"<= {share / 2:.0f} %", used <= share / 2),
    ]  # fmt: skip


def _image(n: int) -> Sequence[object]:
    """Make a message with an image, each another one."""
    value = base64.b64encode(_png(n)).decode()
    image = {"type": "image", "source": {"type": "data", "value": value, "mimeType": "image/png"}}
    return [{"type": "text", "text": "deltas=5 pace_ms=0"}, image]


def _nested(levels: int) -> list[object]:
    return [_nested(levels - 1)] if levels > 1 else []


def _texts(count: int) -> Sequence[str]:
    """Make messages that are as long as they may be, each another one."""
    return [f"{new_id()} {_WIDE} {'a few words ' * (_TEXT_BYTES // 12)}deltas=5 pace_ms=0" for _ in range(count)]


def _png(n: int) -> bytes:
    """Make a grey image whose pixels do not compress."""
    side, noise = 2000, random.Random(n)  # noqa: S311
    rows = _MEDIA_BYTES // (side + 1)
    pixels = b"".join(b"\0" + noise.randbytes(side) for _ in range(rows))
    header = struct.pack(">IIBBBBB", side, rows, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

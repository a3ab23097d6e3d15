"""The streaming function's ASGI app under uvicorn, like the Python AG-UI servers that PERF compares it with.

The model is benchmarks.model. AWS's writes are answered by benchmarks.replay, reads of new keys by the local engine.
A delta's text holds the time at which the model wrote it, so its way takes arrival minus that, on the machine's one
monotonic clock. What we add to it is that time minus the time of deltas that the same client reads from the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

from benchmarks.report import Row
from benchmarks.world import ROOT, World
from karma.core.ids import new_id
from local.processes import running
from local.waiting import until

_STAMP = re.compile(rb'"(?:delta|text)":"(\d{19}) abc"')


@dataclass
class Taken:
    """Measurements of one run as a client saw it, in nanoseconds."""

    sent_ns: int
    first_event_ns: int = 0
    first_delta_ns: int = 0
    took_ns: list[int] = field(default_factory=list)
    """Time from the model's write of a delta to its arrival."""
    deltas: int = 0
    delta_bytes: int = 0
    finished: bool = False
    tail: bytes = b""


@contextmanager
def served(world: World) -> Iterator[tuple[int, psutil.Process]]:
    """Run the app under uvicorn and uvloop; yields its port and process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "agent_stream.app:app", "--fd", str(listener.fileno()),
                   "--loop", "uvloop", "--no-access-log", "--log-level", "warning"]  # fmt: skip
        env = world.environment(replayed=True)
        with running(command, cwd=ROOT, env=env, pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL) as process:
            yield port, until(lambda: _only_child(process.pid), deadline_s=10, what="start of uvicorn")


def _only_child(supervisor: int) -> psutil.Process | None:
    return next(iter(psutil.Process(supervisor).children()), None)


async def run(port: int, token: str, *, deltas: int, pace_ms: int = 0) -> Taken:
    """Ask for a run and read it to its end."""
    body = (
        f'{{"threadId": "{new_id()}", "runId": "{new_id()}", "state": {{}}, "messages": [{{"id": "m", "role": "user", '
        f'"content": "deltas={deltas} pace_ms={pace_ms}"}}], "tools": [], "context": [], "forwardedProps": {{}}}}'
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(
        b"POST /api/agent HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\naccept: text/event-stream\r\n"
        b"authorization: Bearer %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (token.encode(), len(body), body)
    )
    taken = Taken(time.monotonic_ns())
    pending = b""
    while data := await reader.read(1 << 20):
        now = time.monotonic_ns()
        if not taken.first_event_ns and b"data:" in data:
            taken.first_event_ns = now
        whole = pending + data
        cut = whole.rfind(b"\n\n") + 2 if b"\n\n" in whole else 0
        for frame in whole[:cut].split(b"\n\n"):
            stamp = _STAMP.search(frame)
            if stamp is not None:
                taken.first_delta_ns = taken.first_delta_ns or now
                taken.took_ns.append(now - int(stamp[1]))
                taken.deltas += 1
                # A chunk's size line and a segment's id may stand before it; neither is the frame's.
                taken.delta_bytes += len(frame[frame.find(b"data:") :]) + 2
            elif b'"RUN_FINISHED"' in frame:
                taken.finished = True
        pending = whole[cut:]
        taken.tail = (taken.tail + data)[-600:]
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    if taken.deltas != deltas or not (taken.finished or b'"RUN_FINISHED"' in pending):
        raise RuntimeError(f"{taken.deltas} of {deltas} deltas, finished {taken.finished}: {taken.tail!r}")
    return taken


def measure(world: World) -> list[Row]:
    """Return the streaming rows."""
    with served(world) as (port, process):
        return asyncio.run(_measure(world, port, process))


async def _measure(world: World, port: int, process: psutil.Process) -> list[Row]:
    token = world.tokens[0]
    for _ in range(5):
        await run(port, token, deltas=20)
    first = [await run(port, token, deltas=5) for _ in range(15)]
    first_event = _median_ms([each.first_event_ns - each.sent_ns for each in first])
    first_delta = _median_ms([each.first_delta_ns - each.sent_ns for each in first])

    alone, ours = [], []
    for _ in range(3):
        alone += await direct(world, deltas=50, pace_ms=20)
        ours += (await run(port, token, deltas=50, pace_ms=20)).took_ns
    (p50, alone50), (p99, alone99) = ((_ms_at(part, ours), _ms_at(part, alone)) for part in (0.5, 0.99))

    cpu, frame = await _cpu_a_delta(process, port, token)
    rate = await _rate(world, port)

    for _ in range(10):
        await run(port, token, deltas=100)
    before = process.memory_info().rss
    for _ in range(50):
        await run(port, token, deltas=100)
    after = process.memory_info().rss
    growth = (after - before) / 1e6
    name = "agent_stream"
    long = "memory growth over a 10,000-delta run"
    try:
        await run(port, token, deltas=10_000)
        flat = (process.memory_info().rss - after) / 1e6
        last = Row(name, long, "", f"{flat:.1f} MB", "flat (<= 2 MB)", flat <= 2)
    except RuntimeError:
        last = Row(name, long, "", "the run failed", "flat (<= 2 MB)", False)
    return [
        Row(name, "warm: first event", "", f"{first_event:.2f} ms", "<= .5 ms", first_event <= 0.5),
        Row(name, "warm: first text delta", "", f"{first_delta:.2f} ms", "<= 1.5 ms", first_delta <= 1.5),
        Row(name, "added a delta, p50 at 20 ms pace", f"from the model itself {alone50:.2f} ms",
            f"{p50 - alone50:.2f} ms", "<= .5 ms", p50 - alone50 <= 0.5),
        Row(name, "added a delta, p99", f"from the model itself {alone99:.2f} ms",
            f"{p99 - alone99:.2f} ms", "<= .9 ms", p99 - alone99 <= 0.9),
        Row(name, "CPU a delta (10,000, at full speed)", "", f"{cpu:.1f} us", "<= 12 us", cpu <= 12),
        Row(name, "20 streams at once", "", f"{rate / 1000:.1f}k deltas/s", ">= 40k/s", rate >= 40_000),
        Row(name, "wire bytes a delta of 23 characters", "", f"{frame:.0f}", "<= 110", frame <= 110),
        Row(name, "memory after 60 runs", "", f"{after / 1e6:.0f} MB", "<= 70 MB", after / 1e6 <= 70),
        Row(name, "memory growth over the last 50", "", f"{growth:.1f} MB", "<= 2 MB", growth <= 2),
        last,
    ]  # fmt: skip


async def direct(world: World, *, deltas: int, pace_ms: int) -> list[int]:
    """Read a stream of the model itself, and return how long each delta took to arrive, in nanoseconds."""
    url = urlsplit(world.environment(replayed=True)["MODEL_BASE_URL"])
    reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=1 << 22)
    body = b"deltas=%d pace_ms=%d" % (deltas, pace_ms)
    writer.write(b"POST /v1/messages HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    took: list[int] = []
    while (data := await reader.read(1 << 20)) and b'"message_stop"' not in data:
        now = time.monotonic_ns()
        took += [now - int(stamp[1]) for stamp in _STAMP.finditer(data)]
    writer.close()
    return took


async def _cpu_a_delta(process: psutil.Process, port: int, token: str) -> tuple[float, float]:
    """Return the CPU of a long run minus that of a short one, a delta; and the bytes of its frame."""
    deltas, found, frame = 10_000, [], 0.0
    for _ in range(5):
        spent = []
        for count in (1, deltas):
            start = _cpu(process)
            taken = await run(port, token, deltas=count)
            spent.append(_cpu(process) - start)
            frame = taken.delta_bytes / taken.deltas
        found.append((spent[1] - spent[0]) / (deltas - 1) * 1e6)
    return min(found), frame


async def _rate(world: World, port: int) -> float:
    deltas, streams = 2000, 20
    best = 0.0
    for _ in range(2):
        started = time.monotonic()
        await asyncio.gather(
            *(run(port, world.tokens[number % len(world.tokens)], deltas=deltas) for number in range(streams))
        )
        best = max(best, streams * deltas / (time.monotonic() - started))
    return best


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _ms_at(part: float, values: Sequence[int]) -> float:
    """Return the value below which such a part of them is, in milliseconds."""
    return sorted(values)[int(len(values) * part)] / 1e6


def _median_ms(values: Sequence[int]) -> float:
    return statistics.median(values) / 1e6

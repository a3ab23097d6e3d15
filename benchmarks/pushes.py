"""Sending to 10,000 open WebSockets: our small client beside boto3's, to the same counting endpoint in the same run.

The endpoint is another process, which answers as AWS does: of each hundred connections one is gone, one takes a second,
one is throttled once, another until the second is over that its `Retry-After` names, and one takes nothing so large.
What it takes is not counted.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from benchmarks.report import Row
from benchmarks.world import World

_CONNECTIONS = 10_000
_WALL_S, _CPU_S = 4.0, 1.0
_BODY = b"x" * 600
_KINDS = {0: "gone", 1: "slow", 2: "again", 3: "later", 4: "large"}
_MIX = "10,000 messages, 100 at once; 1 % each gone, slow, throttled, throttled for 1 s, too large"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}


def measure(world: World) -> list[Row]:  # noqa: ARG001  each area is given it
    """Return the rows of the pusher's client, and that of the way from a device to a socket."""
    from benchmarks import device_push
    from tests.support.socket_endpoint import endpoint_process

    with _environment(), endpoint_process() as url:
        names = [_name(number) for number in range(_CONNECTIONS)]
        # Others than before: whoever was throttled is not any more.
        own_wall, own_cpu = min(_ours(url, [f"{name}{turn}" for name in names]) for turn in range(2))
        few = names[: _CONNECTIONS // 10]
        boto_wall, boto_cpu = (10 * each for each in _boto3s(url, few))
    told = f"boto3 {boto_cpu:.1f} s of CPU, {boto_wall:.0f} s (from a tenth)"
    return [
        Row("push", "CPU of 10,000 messages", told, f"{own_cpu:.2f} s, {own_cpu / boto_cpu:.2f}x", f"<= {_CPU_S:.0f} s",
            own_cpu <= _CPU_S),
        Row("push", _MIX, told, f"{own_wall:.1f} s",
            f"<= {_WALL_S:.0f} s", own_wall <= _WALL_S),
        *device_push.measure(),
    ]  # fmt: skip


def _name(number: int) -> str:
    return f"{_KINDS.get(number % 100, 'c')}{number}="


def _ours(url: str, names: list[str]) -> tuple[float, float]:
    from karma.integrations.pushes import PushClient
    from karma.realtime.ports import Delivered

    client = PushClient(url)
    messages = [(name, _BODY) for name in names]
    spent, outcomes = _spent(lambda: client.send_all(messages))
    client.close()
    expected = {Delivered.GONE: 1, Delivered.TOO_LARGE: 1, Delivered.SENT: 98}
    if Counter(outcomes) != {each: share * len(names) // 100 for each, share in expected.items()}:
        raise RuntimeError("the endpoint answered otherwise")
    return spent


def _boto3s(url: str, names: list[str]) -> tuple[float, float]:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    # Its own advice for threads: one client, as many connections as threads, and no retries beside ours.
    config = Config(max_pool_connections=100, retries={"total_max_attempts": 1})
    client = boto3.client(
        "apigatewaymanagementapi", endpoint_url=f"http{url.removeprefix('ws')}", config=config, region_name="us-east-1"
    )

    def send(name: str) -> None:
        try:
            client.post_to_connection(ConnectionId=name, Data=_BODY)
        except ClientError as exc:
            if exc.response["ResponseMetadata"]["HTTPStatusCode"] not in {410, 413, 429}:
                raise

    def send_all() -> None:
        with ThreadPoolExecutor(max_workers=100) as threads:
            list(threads.map(send, names))

    send(names[2])  # what its first call loads is not counted
    return _spent(send_all)[0]


def _spent(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return (time.perf_counter() - wall, time.process_time() - cpu), found


@contextmanager
def _environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _CREDENTIALS}
    os.environ.update(_CREDENTIALS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value

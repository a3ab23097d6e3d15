"""From a device's publish to the WebSocket of its owner: the whole backend, deployed as by `make dev`.

The way: MQTT over TLS, IoT rule, queue, ingest function, table, stream, router, queue, pusher, socket. On the engine of
this machine that is a chain of local processes, so the figure is set beside what its stream alone takes from a
write to the call of a function that does nothing else, measured in between.
"""

from __future__ import annotations

import io
import json
import secrets
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from benchmarks.report import Row
from karma_device.config import DeviceConfig
from karma_device.device import Device
from local.api_client import ApiClient
from local.deployment import Deployment, Given
from local.places import Places
from local.progress import Progress
from local.waiting import until

_TIMES = 9
_DEADLINE_S = 60
_PROBE = """
import time

def handler(event, context):
    now = time.time()
    with open({path!r}, "a") as file:
        file.writelines(f"{{each['dynamodb']['Keys']['pk']['S']}} {{now}}\\n" for each in event["Records"])
"""


def measure() -> list[Row]:
    """Return the row of a device's value on its way to a socket."""
    with tempfile.TemporaryDirectory() as folder, deployed(Path(folder)) as deployment:
        stream_delay = stream_probe(deployment, Path(folder))
        with _watched_device(deployment, Path(folder)) as publish:
            publish()  # cold starts are not what is measured
            stream_delay()
            told_s, stream_s = zip(*((publish(), stream_delay()) for _ in range(_TIMES)), strict=True)
    told, stream = (statistics.median(each) * 1000 for each in (told_s, stream_s))
    return [
        Row("push", f"a device's publish over TLS to its owner's socket, median of {_TIMES}",
            f"the engine's stream alone {stream:.0f} ms", f"{told:.0f} ms, {told / stream:.0f}x", "", None),
    ]  # fmt: skip


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """Deploy the whole backend on an engine of its own."""
    running = Deployment(Places(base=folder), persistent=False, given=Given(), progress=Progress())
    try:
        running.start()
        yield running
    finally:
        running.stop()


@contextmanager
def _watched_device(deployment: Deployment, folder: Path) -> Iterator[Callable[[], float]]:
    """Connect a device and a socket that listens to it; yields what publishes a value and returns when it was told."""
    url = deployment.addresses.api_url
    api = ApiClient(url)
    account = {"email": f"bench-{secrets.token_hex(6)}@example.com", "password": secrets.token_urlsafe(16)}
    api.call("POST", "/auth/register", {**account, "name": "Bench"})
    owner = ApiClient(url, token=api.call("POST", "/auth/login", account)["access_token"])
    serial = f"BENCH-{secrets.token_hex(6)}"
    made = owner.call("POST", "/devices", {"name": "Bench", "model": "EOS-3A", "mac": _mac(), "serial_number": serial})
    ticket = owner.call("POST", "/realtime/ticket")
    config = DeviceConfig.from_credentials(made["credentials"], state_dir=folder / serial)
    device = Device(config)
    device.start()
    try:
        if not device.wait_ready(_DEADLINE_S):
            raise RuntimeError("the device did not get through to the broker")
        with connect(f"{ticket['url']}?ticket={ticket['ticket']}", open_timeout=_DEADLINE_S, proxy=None) as socket:
            socket.send(json.dumps({"action": "subscribe", "channel": f"device:{made['device']['id']}"}))
            numbers = iter(range(1, 1_000))
            yield lambda: _told(device, socket, float(next(numbers)))
    finally:
        device.close()
        api.close()
        owner.close()


def _mac() -> str:
    return ":".join(["02", *(f"{byte:02x}" for byte in secrets.token_bytes(5))])


def _told(device: Device, socket: Connection, value: float) -> float:
    """Publish a value, and return the seconds until the socket was told it."""
    began = time.perf_counter()
    device.record({"bench": value})
    device.flush()
    while True:
        said: dict[str, Any] = json.loads(socket.recv(timeout=_DEADLINE_S))
        latest = (said.get("data") or {}).get("latest", {})
        if latest.get("bench", {}).get("value") == value:
            return time.perf_counter() - began


def stream_probe(deployment: Deployment, folder: Path) -> Callable[[], float]:
    """Deploy a table whose stream calls a function that writes down when; returns what measures one write's delay."""
    seen = folder / "stream-probe.txt"
    given = deployment.engine.client_environment()
    session = boto3.session.Session(
        given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], region_name=deployment.engine.region
    )
    functions = session.client("lambda", endpoint_url=deployment.engine.endpoint_url)
    dynamodb = session.client("dynamodb", endpoint_url=deployment.engine.endpoint_url)
    table = dynamodb.create_table(
        TableName="stream-probe",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )["TableDescription"]
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("probe.py", _PROBE.format(path=str(seen)))
    functions.create_function(
        FunctionName="stream-probe",
        Runtime="python3.13",
        Role=functions.list_functions()["Functions"][0]["Role"],
        Handler="probe.handler",
        Code={"ZipFile": code.getvalue()},
    )
    functions.create_event_source_mapping(
        EventSourceArn=table["LatestStreamArn"], FunctionName="stream-probe", StartingPosition="TRIM_HORIZON"
    )

    def delay() -> float:
        name, began = secrets.token_hex(6), time.time()
        dynamodb.put_item(TableName="stream-probe", Item={"pk": {"S": name}})
        return until(lambda: _moment(seen, name), deadline_s=_DEADLINE_S, what="the call by the stream") - began

    return delay


def _moment(seen: Path, name: str) -> float | None:
    lines = seen.read_text().splitlines() if seen.exists() else []
    return next((float(moment) for pk, moment in map(str.split, lines) if pk == name), None)

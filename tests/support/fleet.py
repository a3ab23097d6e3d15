"""A fleet of stock MQTT clients (paho) over TLS, on a network that cuts the first connections of each of them.

Each device sends messages of samples as docs/mqtt.md says: some twice, some behind their successors, all of them QoS 1,
so that what a cut connection may have lost comes again over the next one, by the client's own rules.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import resource
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

CUTS = 2
"""Connections of each device that are cut."""
_DOUBLED, _LATE = 0.05, 0.05
"""Shares of messages that are sent twice, and that are sent behind their successor."""

Sample = tuple[int, str, float]
"""Time in ms, metric and value."""


@dataclass(frozen=True)
class Message:
    """One message of a device, which may be sent more than once."""

    seq: int
    samples: Sequence[Sample]

    def body(self) -> bytes:
        """Return its payload."""
        samples = [{"ts": ts, "m": {metric: value}} for ts, metric, value in self.samples]
        return json.dumps({"boot": "fleet", "seq": self.seq, "samples": samples}).encode()


def as_sent(messages: Sequence[Message], dice: random.Random) -> list[Message]:
    """Return messages as a careless device sends them: some behind their successors, some twice."""
    sent = list(messages)
    for at in range(len(sent) - 1):
        if dice.random() < _LATE:
            sent[at], sent[at + 1] = sent[at + 1], sent[at]
    return [again for each in sent for again in [each] * (2 if dice.random() < _DOUBLED else 1)]


@contextmanager
def relays(host: str, port: int, lasts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Relay to one server through a port of its own for each device, in another process; yield the ports.

    `lasts` has, for each device, the bytes after which its first connections are reset, counted as it sends them. A
    connection that ends by itself before has had its turn. The process is another one since the stock client waits by
    `select`, which knows the first 1,024 descriptors only.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_relay_all, args=(host, port, lasts, theirs), name="relays", daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join(10)
        process.close()
        ours.close()


def _relay_all(host: str, port: int, lasts: Sequence[Sequence[int]], told: Connection) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A device takes three descriptors, and two more while one connection ends as another begins.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 100 + 5 * len(lasts))), hard))

    async def serve() -> None:
        servers = [await asyncio.start_server(_relaying(host, port, iter(each)), "127.0.0.1", 0) for each in lasts]
        told.send([server.sockets[0].getsockname()[1] for server in servers])
        await asyncio.Event().wait()

    asyncio.run(serve())


def _relaying(host: str, port: int, lasts: Iterator[int]) -> Any:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            beyond, onward = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        back = asyncio.create_task(_copy(beyond, writer, most=None))
        try:
            await _copy(reader, onward, most=next(lasts, None))
        finally:
            back.cancel()
            for each in (writer, onward):
                each.transport.abort()

    return relay


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, most: int | None) -> None:
    try:
        while chunk := await reader.read(65_536):
            writer.write(chunk if most is None else chunk[:most])
            await writer.drain()
            if most is not None:
                most -= len(chunk)
                if most <= 0:
                    return
    except ConnectionError:
        return
    finally:
        if most is None:
            writer.transport.abort()


class FleetDevice:
    """A stock client that publishes what it is given, and connects again by itself."""

    def __init__(self, credentials: dict[str, Any], folder: Path) -> None:
        self.thing = str(credentials["thing_name"])
        self.connections = 0
        self._unconfirmed: set[int] = set()
        self._lock = threading.Lock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self.thing, protocol=mqtt.MQTTv311,
                                   clean_session=False)  # fmt: skip
        self._client.tls_set_context(_context(credentials, folder))
        self._client.reconnect_delay_set(min_delay=1, max_delay=4)
        self._client.on_connect = self._connected
        self._client.on_publish = self._published
        self._host = str(credentials["mqtt_host"])

    def start(self, port: int) -> None:
        """Connect, now and whenever the connection is lost."""
        self._client.connect_async(self._host, port, keepalive=60)
        self._client.loop_start()

    def publish(self, message: Message) -> None:
        """Publish a message, now or once it is connected again."""
        with self._lock:
            self._unconfirmed.add(self._client.publish(f"dt/karma/{self.thing}/telemetry", message.body(), qos=1).mid)

    @property
    def unconfirmed(self) -> int:
        """Return how many messages the broker has not acknowledged yet."""
        with self._lock:
            return len(self._unconfirmed)

    def stop(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, *_: object) -> None:
        self.connections += 1

    def _published(self, _client: object, _data: object, mid: int, *_: object) -> None:
        with self._lock:
            self._unconfirmed.discard(mid)


def _context(credentials: dict[str, Any], folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=str(credentials["ca_pem"]))
    pair = folder / f"{credentials['thing_name']}.pem"
    pair.write_text(f"{credentials['private_key']}\n{credentials['certificate_pem']}")
    context.load_cert_chain(pair)
    return context


def messages_of(samples: Sequence[Sample], *, size: int) -> list[Message]:
    """Return samples as messages of at most so many, numbered as they follow each other."""
    begins = range(0, len(samples), size)
    return [Message(number, samples[at : at + size]) for number, at in enumerate(begins, start=1)]

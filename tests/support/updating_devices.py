"""Devices that update themselves: real clients of the device SDK with a slot for firmware, on a network that cuts.

    python -m tests.support.updating_devices FOLDER

runs one as a process of its own, until it is killed, its standard input ends, or it restarts into what it has installed
(status RESTARTS). FOLDER has `credentials.json` and `keys.json`, and keeps whatever the device keeps.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from karma_device.config import DeviceConfig
from karma_device.device import Device
from karma_device.firmware import Manifest
from karma_device.updates import FirmwareUpdater

RESTARTS = 75
"""Status of a process whose device restarts."""
OLD = "1.0.0"
"""Version that a device runs at first."""


class UpdatingDevice:
    """A device whose slot holds the version that it runs after its next start."""

    def __init__(
        self, credentials: dict[str, Any], folder: Path, keys: Sequence[str], *, model: str = "EOS-3A"
    ) -> None:
        self.serial = str(credentials["thing_name"])
        self.is_bad = False
        """Its slot is worn out: it cannot install anything."""
        self.may_install = threading.Event()
        """Cleared: it has fetched and takes its time."""
        self.may_install.set()
        self.credentials = credentials
        self._folder = folder
        self._keys = tuple(keys)
        self._model = model
        self._client: Device | None = None
        self._lock = threading.Lock()
        self._is_on = False

    @property
    def version(self) -> str:
        """Return the version in its slot."""
        slot = self._folder / "slot"
        return slot.read_text() if slot.exists() else OLD

    def start(self, *, restart: Callable[[], None] | None = None) -> None:
        """Switch it on; `restart` is called in place of its own restart."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._is_on = True
        self._boot(restart)

    def stop(self) -> None:
        """Switch it off."""
        self._is_on = False
        self.may_install.set()
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def wait_ready(self, seconds: float) -> bool:
        """Wait until it is connected."""
        return self._client is not None and self._client.wait_ready(seconds)

    def _boot(self, restart: Callable[[], None] | None) -> None:
        version = self.version
        updater = FirmwareUpdater(
            folder=self._folder / "updates",
            model=self._model,
            keys=self._keys,
            running_version=version,
            install=self._install,
            restart=restart or self._restart,
            fetch_within_s=120,
        )
        config = DeviceConfig.from_credentials(
            self.credentials,
            state_dir=self._folder / "state",
            firmware_version=version,
            heartbeat_interval_s=5.0,
            command_workers=1,
            reconnect_min_s=0.2,
            reconnect_max_s=2.0,
        )
        with self._lock:
            if self._is_on:
                self._client = Device(config, updater=updater)
                self._client.start()

    def _install(self, path: Path, manifest: Manifest) -> None:
        if self.is_bad:
            raise OSError("the slot is worn out")
        assert path.stat().st_size == manifest.size
        self.may_install.wait()
        (self._folder / "slot").write_text(manifest.version)

    def _restart(self) -> None:
        threading.Thread(target=self._cycle, name="restart", daemon=True).start()

    def _cycle(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
        self._boot(None)


class CuttingProxy(ThreadingHTTPServer):
    """An HTTP proxy that cuts downloads: each that begins at the first byte, after as many bytes as `last` says."""

    daemon_threads = True

    def __init__(self, last: Callable[[], int | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Through)
        self.last = last
        self.ranges: list[str] = []
        """`Range` of each request, in order."""
        self.holds = threading.Event()
        """Set: what would be cut stands still instead, as a line does whose other end has lost its power."""
        self.bytes = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), name="proxy", daemon=True).start()

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        """Stop it."""
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Say nothing: devices leave in the middle."""


class _Through(BaseHTTPRequestHandler):
    server: CuttingProxy

    def do_GET(self) -> None:
        proxy, wanted = self.server, self.headers.get("Range", "")
        proxy.ranges.append(wanted)
        target = urlsplit(self.path)
        beyond = http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "proxy-connection"}
            beyond.request("GET", f"{target.path}?{target.query}", headers=headers)
            answer = beyond.getresponse()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self._copy(answer, proxy.last() if not wanted and answer.status < 300 else None)
        finally:
            beyond.close()

    def _copy(self, answer: http.client.HTTPResponse, most: int | None) -> None:
        sent = 0
        while chunk := answer.read(32_768):
            if most is not None and sent + len(chunk) > most:
                self.wfile.write(chunk[: most - sent])
                if self.server.holds.is_set():
                    self.connection.settimeout(60)
                    self.connection.recv(1)
                # A reset, as when an address changes; not the orderly end of a stream.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            self.wfile.write(chunk)
            sent += len(chunk)
            self.server.bytes += len(chunk)

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    """Run one device."""
    folder = Path(sys.argv[1])
    credentials = json.loads((folder / "credentials.json").read_text())
    device = UpdatingDevice(credentials, folder, json.loads((folder / "keys.json").read_text()))
    device.start(restart=lambda: os._exit(RESTARTS))
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()

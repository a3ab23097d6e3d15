"""Ports of the local environment: free ones, remembered so that addresses stay the same from run to run."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Mapping
from pathlib import Path

NAMES = ("engine", "mqtt", "front", "stream", "model", "stripe")


def is_free(port: int) -> bool:
    """Tell whether a listener could bind the port on loopback and on every interface (the MQTT broker does)."""
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 -- probed, closed at once
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def remembered(memory: Path) -> dict[str, int]:
    """Return the ports that were chosen last, {} if none were."""
    if not memory.exists():
        return {}
    return {str(name): int(port) for name, port in json.loads(memory.read_text()).items()}


def choose(memory: Path | None, *, ours: Collection[str] = ()) -> Mapping[str, int]:
    """Return a port for every name: the one of last time where it is free, else a new one, written to `memory`.

    `ours` names those that processes of this environment are listening on: they are kept.
    """
    known = remembered(memory) if memory is not None else {}
    chosen: dict[str, int] = {}
    held: list[socket.socket] = []
    try:
        for name in NAMES:
            port = known.get(name, 0)
            taken = port in chosen.values() or not (name in ours or is_free(port))
            if not port or taken:
                # Held open until all are chosen, so that no two names get the same.
                probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                held.append(probe)
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            chosen[name] = port
    finally:
        for probe in held:
            probe.close()
    if memory is not None:
        memory.write_text(json.dumps(chosen, indent=1))
    return chosen

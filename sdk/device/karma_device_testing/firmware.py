"""A shop that serves firmware with ranges as S3 does, and signed manifests of it."""

import hashlib
import json
import random
import re
import socket
import struct
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from karma_device.firmware import Manifest

DATA = random.Random(7).randbytes(6 * 1024 * 1024)  # noqa: S311  the same bytes each time
MANIFEST = Manifest("2.0.0", ("EOS-3A",), len(DATA), hashlib.sha256(DATA).hexdigest(), 3)
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


class Shop(ThreadingHTTPServer):
    """Serves one object with ranges as S3 does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Counter)
        self.data = DATA
        self.tag = '"one"'
        self.cut_after: int | None = None
        """Bytes of an answer after which the connection is cut; None: never."""
        self.hang_after: int | None = None
        self.reset_after: int | None = None
        """Bytes of an answer after which the connection is reset, as when an address changes; None: never."""
        self.drips_s = 0.0
        """Seconds between two bytes."""
        self.forbids: set[str] = set()
        self.forbids_all = False
        self.ranges: list[str] = []
        self.sent = 0

    @property
    def url(self) -> str:
        """Return the link to the object."""
        return f"http://127.0.0.1:{self.server_address[1]}/link"


class Counter(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Shop

    def do_GET(self) -> None:
        """Send what is asked for, or a part of it."""
        shop, wanted = self.server, self.headers.get("Range", "")
        shop.ranges.append(wanted)
        if self.path in shop.forbids or shop.forbids_all:
            self.send_error(403)
            return
        begin = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", wanted)) else 0
        if self.headers.get("If-Range", shop.tag) != shop.tag:
            begin = 0
        if begin >= len(shop.data):
            self.send_error(416)
            return
        body = shop.data[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("ETag", shop.tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: shop.cut_after] if shop.cut_after is not None else body
        try:
            for at in range(0, len(body), 65_536):
                if shop.hang_after is not None and shop.sent >= shop.hang_after:
                    time.sleep(60)
                self._send(body[at : at + 65_536], at)
                shop.sent += len(body[at : at + 65_536])
        except OSError:
            return

    def _send(self, part: bytes, at: int) -> None:
        shop = self.server
        if shop.drips_s:
            for each in part:
                self.wfile.write(bytes([each]))
                time.sleep(shop.drips_s)
        elif shop.reset_after is not None and at + len(part) > shop.reset_after:
            self.wfile.write(part[: max(0, shop.reset_after - at)])
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            raise ConnectionResetError
        else:
            self.wfile.write(part)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def text_of(**changed: Any) -> str:
    """Return a manifest of DATA, as it would be signed."""
    said = {
        "format": 1,
        "models": ["EOS-3A"],
        "version": "2.0.0",
        "size": len(DATA),
        "sha256": MANIFEST.sha256,
        "rollback_index": 3,
    }
    return json.dumps({**said, **changed})

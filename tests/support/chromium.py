"""A real browser without a window, driven by its DevTools protocol."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import websockets

from local.processes import running
from local.waiting import until

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_START_S = 60.0


def found() -> str | None:
    """Return the browser that KARMA_CHROMIUM names, or one of this machine."""
    return os.environ.get("KARMA_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


class Page:
    """One page of the browser."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._session = ""

    async def open(self, url: str) -> None:
        """Open a page, in a target of its own."""
        target = await self._call("Target.createTarget", url="about:blank")
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self._call("Page.enable")
        await self._call("Page.navigate", url=url)
        await self.evaluate("new Promise(done => document.readyState == 'complete' ? done() : onload = done)")

    async def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, and wait for what it promises.

        Raises:
            RuntimeError: it threw.
        """
        answer = await self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def _call(self, method: str, **params: object) -> dict[str, Any]:
        number = next(self._ids)
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params, **session}))
        while True:
            message: dict[str, Any] = json.loads(await self._socket.recv())
            if message.get("id") != number:
                continue  # an event
            if "error" in message:
                raise RuntimeError(f"{method}: {message['error']}")
            result: dict[str, Any] = message["result"]
            return result


@contextmanager
def started(program: str, profile: Path) -> Iterator[str]:
    """Start the browser with a profile of its own; yield the address of its protocol."""
    options = ["--headless", "--remote-debugging-port=0", "--disable-gpu", f"--user-data-dir={profile}"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # as root it has none; it opens our own page alone
    listening = profile / "DevToolsActivePort"
    with running([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        port, path = until(lambda: _lines(listening), deadline_s=_START_S, what="the browser")
        yield f"ws://127.0.0.1:{port}{path}"


def _lines(file: Path) -> tuple[str, str] | None:
    """Return the port and the path that the browser wrote; None: it does not listen yet."""
    found = file.read_text().splitlines() if file.exists() else []
    return (found[0], found[1]) if len(found) > 1 else None


@asynccontextmanager
async def page(browser: str) -> AsyncIterator[Page]:
    """Yield a page of a browser that was started."""
    async with websockets.connect(browser, max_size=None, proxy=None, close_timeout=1) as socket:
        yield Page(socket)

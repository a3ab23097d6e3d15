"""Keeps a caller logged in: each request gets the present access token, and a 401 gets a new one, once.

A refresh token is good for one trade, so requests that fail at the same time share the trade of the first of them.
Written by hand and copied into the generated package (sdk/clients/generate.py).

    session = Session(tokens.access_token, tokens.refresh_token, keep=save)
    client = Client(base_url=api_url, httpx_args={"auth": session})
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator

import httpx


class Session(httpx.Auth):
    """The tokens of one session, for any number of clients, threads and tasks of one process."""

    requires_response_body = True

    def __init__(
        self, access_token: str, refresh_token: str, *, keep: Callable[[str, str], None] | None = None
    ) -> None:
        """`keep` is told each new pair, access token first, before a request uses it: whoever starts again needs it."""
        self._access_token = access_token
        self._refresh_token = refresh_token
        self._keep = keep
        self._trading = threading.Lock()

    @property
    def access_token(self) -> str:
        """The present one, for other clients such as that of streams."""
        return self._access_token

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request, and once more when another access token may help."""
        used = self._sign(request)
        response = yield request
        if response.status_code != 401:
            return
        with self._trading:
            if used == self._access_token:
                answer = yield self._trade(request)
                answer.read()
                self._take(answer)
        if used != self._access_token:
            self._sign(request)
            yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send a request, and once more when another access token may help."""
        used = self._sign(request)
        response = yield request
        if response.status_code != 401:
            return
        while not self._trading.acquire(blocking=False):  # noqa: ASYNC110  a lock of threads: loops may share a session
            await asyncio.sleep(0.01)
        try:
            if used == self._access_token:
                answer = yield self._trade(request)
                await answer.aread()
                self._take(answer)
        finally:
            self._trading.release()
        if used != self._access_token:
            self._sign(request)
            yield request

    def _sign(self, request: httpx.Request) -> str:
        used = self._access_token
        request.headers["Authorization"] = f"Bearer {used}"
        return used

    def _trade(self, request: httpx.Request) -> httpx.Request:
        # Beside the request's own path: an API behind a path of its own is reached as well.
        base = str(request.url).partition("/api/")[0]
        return httpx.Request("POST", f"{base}/api/v1/auth/refresh", json={"refresh_token": self._refresh_token})

    def _take(self, answer: httpx.Response) -> None:
        if answer.status_code != 200:
            return  # the session is over, or the API is busy: the caller sees its own 401
        data = answer.json()["data"]
        self._access_token, self._refresh_token = data["access_token"], data["refresh_token"]
        if self._keep is not None:
            self._keep(self._access_token, self._refresh_token)

"""A client of the backend's HTTP API and of its AG-UI stream, as a front end would be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from local.errors import LocalError


class ApiRefused(LocalError):
    """The API answered with its error envelope."""

    def __init__(self, method: str, path: str, response: httpx.Response) -> None:
        self.status = response.status_code
        self.code = ""
        detail = response.text[:500]
        try:
            error = response.json()["error"]
            self.code, detail = str(error["code"]), str(error["message"])
        except (ValueError, KeyError, TypeError):
            pass
        super().__init__(f"{method} {path}: {self.status} {self.code} {detail}")


class ApiClient:
    """Calls `/api/v1` with a bearer token or an API key."""

    def __init__(self, base_url: str, *, token: str = "", api_key: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {"X-API-Key": api_key} if api_key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=30, trust_env=False)

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, body: object = None, **query: str | int) -> dict[str, Any]:
        """Call a route below `/api/v1`; return the envelope's `data`.

        Raises:
            ApiRefused: the API answered with a status of 400 or above.
        """
        response = self._http.request(method, f"/api/v1{path}", json=body, params=query or None)
        if response.status_code >= 400:
            raise ApiRefused(method, path, response)
        data: dict[str, Any] = response.json()["data"] if response.content else {}
        return data

    def log_in(self, email: str, password: str) -> None:
        """Log in; the following calls are the user's.

        Raises:
            ApiRefused: 401: the address is unknown or the password wrong.
        """
        data = self.call("POST", "/auth/login", {"email": email, "password": password})
        self._http.headers["Authorization"] = f"Bearer {data['access_token']}"


def stream_agent(
    stream_url: str, run_input: Mapping[str, Any], *, token: str = "", api_key: str = ""
) -> Iterator[dict[str, Any]]:
    """Post an AG-UI run and yield its events as they arrive; comments between them are keep-alives.

    Raises:
        ApiRefused: the run was refused before it began.
    """
    headers = {"Accept": "text/event-stream"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {"X-API-Key": api_key}
    with (
        httpx.Client(timeout=httpx.Timeout(60, connect=5), trust_env=False) as client,
        client.stream("POST", f"{stream_url}/api/agent", json=dict(run_input), headers=headers) as response,
    ):
        if response.status_code != 200:
            response.read()
            raise ApiRefused("POST", "/api/agent", response)
        for line in lines_of(response):
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def lines_of(response: httpx.Response) -> Iterator[str]:
    """Yield the lines of an event stream. `iter_lines` ends them also at U+2028 and its like, within a JSON text."""
    rest = b""
    for chunk in response.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode()

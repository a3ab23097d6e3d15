"""A client of the backend's HTTP API and of its AG-UI stream, as a front end would be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from karma_agent.client import AgentClient
from karma_agent.errors import RunRefused, RunUnreachable
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


def agent_events(
    stream_url: str, message: str, *, thread_id: str = "", token: str = "", api_key: str = ""
) -> Iterator[Mapping[str, Any]]:
    """Say something to the agent, and yield the events of its answer as they arrive.

    Raises:
        LocalError: the run was refused, or could not be followed to its end.
    """
    with asyncio.Runner() as runner:
        client = AgentClient(stream_url, token=token, api_key=api_key)
        events = aiter(client.run(message, thread_id=thread_id))

        async def next_event() -> Mapping[str, Any]:
            return await anext(events)

        try:
            while True:
                yield runner.run(next_event())
        except StopAsyncIteration:
            pass
        except (RunRefused, RunUnreachable) as exc:
            raise LocalError(str(exc)) from exc
        finally:
            runner.run(client.close())

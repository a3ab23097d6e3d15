"""Google and GitHub on loopback: npm's oidc-provider behind server.mjs, and a browser that follows their redirects."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from local.places import of_repository
from local.processes import clean_environment

SECRET = "a-secret-of-32-characters-or-more"
API_URL = "https://api.example.com"
"""Address at which the browser finds our API; the tests stand between the two."""
CLIENTS = {name: {"client_id": f"{name}-client", "client_secret": SECRET} for name in ("google", "github")}

_TRUSTED = ssl.create_default_context()
"""TLS context of all clients here: httpx would read the system's certificates for each, which takes longer than a
request."""


def callback_url(provider: str) -> str:
    return f"{API_URL}/api/v1/auth/oauth/{provider}/callback"


@dataclass(frozen=True)
class Providers:
    """Two running authorization servers."""

    google: str
    github: str

    def person(self, **claims: Any) -> None:
        """Set who logs in at both providers from now on; other claims are those of Ada, who is verified."""
        self._control("_person", claims)

    def fault(self, **fault: Any) -> None:
        """Set how the providers' answers are broken from now on; see server.mjs."""
        self._control("_fault", fault)

    def reset(self) -> None:
        self._control("_reset", {})

    def _control(self, path: str, body: dict[str, Any]) -> None:
        httpx.post(f"{self.google}/{path}", json=body, trust_env=False, verify=_TRUSTED).raise_for_status()


class Browser:
    """A cookie jar that follows a provider's redirects, as far as our own address."""

    def __init__(self) -> None:
        self._http = httpx.Client(trust_env=False, timeout=20, verify=_TRUSTED)

    def visit(self, url: str) -> dict[str, str]:
        """Follow redirects from a provider's page to our callback; return the callback's parameters."""
        for _ in range(10):
            answer = self._http.get(url)
            assert answer.has_redirect_location, f"{answer.status_code} {answer.text[:500]}"
            url = str(answer.next_request.url) if answer.next_request else ""
            if url.startswith(API_URL):
                return dict(parse_qsl(urlsplit(url).query))
        raise AssertionError("the redirects do not end")

    def close(self) -> None:
        self._http.close()


@contextmanager
def running() -> Iterator[Providers]:
    """Start both on free ports, and stop them afterwards."""
    node = shutil.which("node")
    assert node is not None
    script = Path(__file__).with_name("server.mjs")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [node, str(script), callback_url("google"), callback_url("github")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=clean_environment(),
            cwd=of_repository().root,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            log.seek(0)
            assert line, log.read().decode(errors="replace")
            yield Providers(**json.loads(line))
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

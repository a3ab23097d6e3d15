"""Whatever listens for this environment hears programs and pages of this machine, and no page of another site."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import psutil
import pytest

from local import ports
from local.deployment import Deployment

from .conftest import DEADLINE_S, User

pytestmark = [pytest.mark.needs("local-stage"), pytest.mark.fault("F-26b", "F-26c")]
CREDENTIAL = "X-Amz-Credential=test/20260101/us-east-1/sqs/aws4_request"
PATHS = [
    f"/?Action=ListQueues&{CREDENTIAL}",
    "/_ministack/ses/messages",
    "/_ministack/reset",
    "/api/v1/health",
    "/health",
    "/v1/messages",
    "/__aimock/journal",
    "/__aimock/reset",
    "/v1/customers",
    "/_config/data",
    "/_config/webhooks/karma",
    "/2018-06-01/runtime/invocation/next",
]
"""Of which each listener serves some; the check of origins looks at none of them first."""
REBOUND = "elsewhere.example"
FORM = {"content-type": "application/x-www-form-urlencoded"}
PAGE = {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
ASKS = {"access-control-request-method": "PUT", "access-control-request-headers": "authorization,x-karma-control"}
EMBEDDED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
FRAMED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
OPENED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FOREIGN = {
    # What a browser sends for a page whose own name leads here: of `GET` it tells nothing but the name.
    "rebound GET": ("GET", {"host": REBOUND}),
    "rebound GET that is signed": ("GET", {"host": REBOUND, "authorization": "AWS4-HMAC-SHA256 Credential=test"}),
    "rebound POST": ("POST", {"host": REBOUND, "origin": f"http://{REBOUND}", **FORM}),
    "rebound control": ("DELETE", {"host": REBOUND, "origin": f"http://{REBOUND}", "x-karma-control": "1"}),
    # What it sends for a page of elsewhere that names this machine.
    "fetch": ("GET", PAGE),
    "form": ("POST", {**PAGE, **FORM, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}),
    "text": ("POST", {**PAGE, "content-type": "text/plain", "sec-fetch-mode": "no-cors"}),
    "sandboxed page": ("POST", {**PAGE, "origin": "null", "content-type": "text/plain"}),
    "preflight": ("OPTIONS", {**PAGE, **ASKS}),
    "image": ("GET", EMBEDDED),
    "frame": ("GET", FRAMED),
    "form of a browser that tells the page alone": ("POST", {"origin": "https://elsewhere.example", **FORM}),
}


_LISTENS = psutil.CONN_LISTEN


def listening(deployment: Deployment) -> set[int]:
    """Return every port on which a process of the environment listens."""
    found: set[int] = set()
    for top in [psutil.Process(pid) for pid in deployment.processes.running().values()]:
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, FileNotFoundError):  # a child of a moment, as those of a sweep
                found |= {each.laddr.port for each in process.net_connections("inet") if each.status == _LISTENS}
    return found


def answer(port: int, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Return status and body; status 0 where what listens does not speak HTTP, or waits before it answers."""
    host = headers.get("host", "127.0.0.1")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, b"url=x" if method == "POST" else None, {**headers, "host": f"{host}:{port}"})
        got = connection.getresponse()
        return got.status, got.read().decode("utf-8", "replace")
    except (http.client.HTTPException, ConnectionError):
        return 0, ""
    except TimeoutError:
        return 0, "it waits"
    finally:
        connection.close()


def heard(deployment: Deployment, name: str, method: str, headers: dict[str, str]) -> Iterator[str]:
    """Tell of each listener that answers a request otherwise than by refusing it."""
    for port in sorted(listening(deployment)):
        for path in PATHS:
            status, said = answer(port, method, path, headers)
            if port == deployment.ports["mqtt"]:
                # TLS, and that with a certificate of the client's.
                refused = (status, said) == (0, "")
            else:
                refused = status == 403 and ("this environment" in said or "this path" in said)
            if not refused:
                yield f"{name}: port {port} answers {method} {path} with {status} {said[:80]!r}"


def test_every_port_of_the_environment_is_among_those_that_are_tried(deployment: Deployment) -> None:
    named = {deployment.ports[name] for name in ports.NAMES}
    also = listening(deployment) - named
    assert named <= listening(deployment)
    # aimock behind its front, which hears that front alone, and the APIs from which bootstraps fetch their calls.
    assert len(also) >= 3


@pytest.mark.parametrize("name", FOREIGN)
def test_a_page_of_another_site_is_heard_by_nobody(deployment: Deployment, name: str) -> None:
    assert list(heard(deployment, name, *FOREIGN[name])) == []


@pytest.mark.parametrize("path", ["/__aimock/journal", "/_config/data", "/__aimock/../__aimock/journal", "//_config/x"])
@pytest.mark.parametrize("page", ["http://localhost:5173", None])
def test_what_steers_a_listener_hears_no_page_at_all(deployment: Deployment, path: str, page: str | None) -> None:
    port = deployment.ports["model" if "aimock" in path else "stripe"]
    headers = {} if page is None else {"origin": page, "x-karma-control": "1"}
    assert answer(port, "GET", path, headers)[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "localhost"},
        {"host": "bucket.s3.localhost"},
        {"host": "[::1]"},
        {"origin": "http://localhost:5173", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ],
)
def test_programs_and_pages_of_this_machine_are_heard(deployment: Deployment, headers: dict[str, str]) -> None:
    paths = {"engine": "/_ministack/health", "front": "/api/v1/health", "stream": "/health", "model": "/health"}
    found = {name: answer(deployment.ports[name], "GET", path, headers)[0] for name, path in paths.items()}
    assert found == dict.fromkeys(paths, 200)
    assert answer(deployment.ports["stripe"], "GET", "/v1/customers", headers)[0] == 401


def test_a_login_elsewhere_leads_back_to_the_api_and_a_link_to_nothing_else(deployment: Deployment) -> None:
    back = "/api/v1/auth/oauth/github/callback?code=1&state=2"
    assert "this environment" not in answer(deployment.ports["front"], "GET", back, OPENED)[1]
    status, said = answer(deployment.ports["engine"], "GET", PATHS[0], OPENED)
    assert (status, "this environment" in said) == (403, True)


def test_a_websocket_of_another_site_does_not_open(user: User, deployment: Deployment) -> None:
    """The ticket is good: it opens a connection for a page of this machine, after all others were refused."""
    address = urlsplit(deployment.addresses.websocket_url)
    assert address.port is not None
    ticket = user.api.call("POST", "/realtime/ticket")["ticket"]
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    upgrade["sec-websocket-key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    foreign = ({"host": REBOUND}, {"origin": "https://elsewhere.example"}, {"origin": "null"})
    for headers, status in (*((each, b" 403 ") for each in foreign), ({"origin": "http://localhost:5173"}, b" 101 ")):
        with socket.create_connection(("127.0.0.1", address.port), timeout=DEADLINE_S) as plain:
            lines = {"host": f"127.0.0.1:{address.port}", **upgrade, **headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            plain.sendall(f"GET {address.path}?ticket={ticket} HTTP/1.1\r\n{head}\r\n".encode())
            assert status in plain.recv(200).split(b"\r\n")[0], headers

"""The front passes requests and answers on as they are."""

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from local import ports
from local.places import ROOT, Places
from local.processes import Processes, Program, clean_environment
from local.waiting import http_status

LISTED = "http://localhost:3000"


class Upstream(BaseHTTPRequestHandler):
    """Tells what it got; `/slow` holds the request until the test lets go, `/pair` until a second one is there.

    Allows one origin, as an API with CORS settings does.
    """

    together = 0
    most = 0
    lock = threading.Lock()
    release = threading.Event()
    pair = threading.Barrier(2)

    def do_POST(self) -> None:
        kind = type(self)
        with kind.lock:
            kind.together += 1
            kind.most = max(kind.most, kind.together)
        if "/slow" in self.path:
            kind.release.wait(20)
        elif "/pair" in self.path:
            kind.pair.wait(20)
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        seen = {"path": self.path, "method": self.command, "headers": self.headers.items(), "body": body.hex()}
        packed = gzip.compress(json.dumps(seen).encode())
        with kind.lock:
            kind.together -= 1
        self.send_response(418)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        if self.headers.get("origin") == LISTED:
            self.send_header("Access-Control-Allow-Origin", LISTED)
        self.send_header("Content-Length", str(len(packed)))
        self.end_headers()
        self.wfile.write(packed)

    def do_GET(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self.do_POST()

    def do_OPTIONS(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def front(tmp_path: Path) -> Iterator[str]:
    Upstream.together = Upstream.most = 0
    Upstream.release.clear()
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    upstream.daemon_threads = True
    thread = threading.Thread(target=upstream.serve_forever)
    thread.start()
    places = Places(base=tmp_path / "local")
    places.make()
    processes = Processes(places)
    port = ports.choose(None)["front"]
    target = f"http://127.0.0.1:{upstream.server_port}/_aws/execute-api/abc/$default"
    command = [sys.executable, "-m", "local.front", str(port), target]
    command += ["--also", "/webhooks/stripe", f"http://127.0.0.1:{upstream.server_port}", "hooks.example.com"]
    processes.start(Program("front", command, clean_environment(), ROOT))
    url = f"http://127.0.0.1:{port}"
    try:
        processes.wait_ready("front", "the front", lambda: http_status(url) is not None)
        yield url
    finally:
        Upstream.release.set()
        processes.stop(["front"])
        upstream.shutdown()
        upstream.server_close()
        thread.join()


def test_nothing_of_request_or_answer_changes(front: str) -> None:
    raw = bytes(range(256))
    answer = httpx.post(
        f"{front}/api/v1/things/a%2Fb?x=1&x=%20", content=raw, headers={"X-One": "1", "User-Agent": "me"}, timeout=20
    )
    assert answer.status_code == 418
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert answer.headers["content-encoding"] == "gzip"
    seen = answer.json()
    assert seen["path"] == "/_aws/execute-api/abc/$default/api/v1/things/a%2Fb?x=1&x=%20"
    assert bytes.fromhex(seen["body"]) == raw
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert (headers["x-one"], headers["user-agent"]) == ("1", "me")
    assert headers["host"] == front.removeprefix("http://")


def test_a_path_of_another_api_goes_there_under_its_host(front: str) -> None:
    seen = httpx.post(f"{front}/webhooks/stripe?a=1", content=b"signed", timeout=20).json()
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert (seen["path"], headers["host"]) == ("/webhooks/stripe?a=1", "hooks.example.com")
    assert bytes.fromhex(seen["body"]) == b"signed"


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
def test_methods_stay(front: str, method: str) -> None:
    assert httpx.request(method, f"{front}/", timeout=20).json()["method"] == method


@pytest.mark.fault("F-23a")
@pytest.mark.parametrize("origin", [LISTED, "http://localhost:4321", "https://127.0.0.1", "http://[::1]:8080"])
def test_a_page_at_any_port_of_this_machine_is_one_that_the_api_lists(front: str, origin: str) -> None:
    answer = httpx.post(f"{front}/", headers={"Origin": origin}, timeout=20)
    assert answer.headers["access-control-allow-origin"] == origin
    assert {name.lower(): value for name, value in answer.json()["headers"]}["origin"] == LISTED


@pytest.mark.fault("F-23a")
@pytest.mark.parametrize(
    "origin", ["https://app.example.com", "http://localhost.example.com", "null", "http://10.0.0.1"]
)
def test_another_page_gets_nothing(front: str, origin: str) -> None:
    answer = httpx.post(f"{front}/", headers={"Origin": origin}, timeout=20)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status_code == 403
    assert origin in answer.json()["message"]


def test_two_at_a_time(front: str) -> None:
    with httpx.Client(timeout=30) as client:
        threads = [threading.Thread(target=client.get, args=(f"{front}/pair",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert Upstream.most == 2


def test_those_that_wait_long_let_others_pass(front: str) -> None:
    with httpx.Client(timeout=30) as client:
        slow = [threading.Thread(target=client.get, args=(f"{front}/slow",)) for _ in range(4)]
        for thread in slow:
            thread.start()
        assert client.get(f"{front}/quick").status_code == 418
        Upstream.release.set()
        for thread in slow:
            thread.join()


def test_an_upstream_that_is_gone_is_503(tmp_path: Path) -> None:
    places = Places(base=tmp_path / "local")
    places.make()
    processes = Processes(places)
    chosen = ports.choose(None)
    command = [sys.executable, "-m", "local.front", str(chosen["front"]), f"http://127.0.0.1:{chosen['engine']}/x"]
    processes.start(Program("front", command, clean_environment(), ROOT))
    url = f"http://127.0.0.1:{chosen['front']}"
    try:
        processes.wait_ready("front", "the front", lambda: http_status(url) == 503)
        assert httpx.get(url, timeout=20).json() == {"message": "Service Unavailable"}
    finally:
        processes.stop(["front"])

"""The clients' sessions refresh their tokens: once for all requests that meet a 401, and never a used token again."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import pytest

from sdk.clients import generate
from sdk.clients.python.session import Session

pytestmark = pytest.mark.fault("F-24b")

URL = "http://api.example.com/stage"
"""Of an API behind a path of its own."""


class RotatingApi:
    """Fake API that accepts only the newest access token, and each refresh token once; requests with an old one meet at
    `together`.

    `log` tells what happened, in order: trades, refused refresh tokens, for which the real API ends the session, and
    access tokens that were accepted.
    """

    def __init__(self, *, together: int = 1) -> None:
        self.trades = 0
        self.log: list[str] = []
        self.refused = threading.Barrier(together)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/stage/api/v1/auth/refresh":
            if json.loads(request.content)["refresh_token"] != f"r{self.trades}":
                self.log.append("refused")
                return httpx.Response(401)
            self.trades += 1
            self.log.append(f"traded for a{self.trades}")
            return httpx.Response(
                200, json={"data": {"access_token": f"a{self.trades}", "refresh_token": f"r{self.trades}"}}
            )
        if request.headers["authorization"] == f"Bearer a{self.trades}" and self.trades:
            self.log.append(f"accepted a{self.trades}")
            return httpx.Response(200, content=request.content)
        self.refused.wait(10)
        return httpx.Response(401)


def test_python_threads_share_one_trade() -> None:
    api = RotatingApi(together=8)
    session = Session("a0", "r0", keep=lambda access, refresh: api.log.append(f"kept {access} {refresh}"))
    with httpx.Client(base_url=URL, auth=session, transport=httpx.MockTransport(api)) as client:

        def ask(number: int) -> httpx.Response:
            return client.post("/api/v1/devices", json=number)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, number) for number in range(8)]
    assert (api.log, session.access_token) == (["traded for a1", "kept a1 r1", *["accepted a1"] * 8], "a1")


def test_python_tasks_share_one_trade() -> None:
    api = RotatingApi()

    async def ask() -> list[int]:
        session, refused = Session("a0", "r0"), asyncio.Barrier(4)

        async def answer(request: httpx.Request) -> httpx.Response:
            given = api(request)
            # Without a wait each task would be through before the next one begins.
            if given.status_code == 401:
                await refused.wait()
            else:
                await asyncio.sleep(0)
            return given

        async with (
            asyncio.timeout(10),
            httpx.AsyncClient(base_url=URL, auth=session, transport=httpx.MockTransport(answer)) as client,
        ):
            return [each.status_code for each in await asyncio.gather(*(client.get("/api/v1/devices") for _ in "abcd"))]

    assert asyncio.run(ask()) == [200] * 4
    assert api.log == ["traded for a1", *["accepted a1"] * 4]


def test_a_python_thread_that_trades_is_awaited_by_the_others() -> None:
    session, asked = Session("a0", "r0"), httpx.Request("GET", f"{URL}/api/v1/devices")
    first, second = session.sync_auth_flow(asked), session.sync_auth_flow(asked)
    next(first), next(second)
    trade = first.send(httpx.Response(401, request=asked))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.send, httpx.Response(401, request=asked))
        assert not wait([waiting], timeout=0.1).done
        tokens = {"access_token": "a1", "refresh_token": "r1"}
        first.send(httpx.Response(200, request=trade, json={"data": tokens}))
        first.close()
        assert waiting.result(10).headers["authorization"] == "Bearer a1"


def test_a_python_request_that_is_refused_after_a_trade_of_another_makes_none() -> None:
    api, session = RotatingApi(), Session("a0", "r0")
    asked = httpx.Request("GET", f"{URL}/api/v1/devices")
    late = session.sync_auth_flow(asked)
    next(late)
    with httpx.Client(base_url=URL, auth=session, transport=httpx.MockTransport(api)) as client:
        assert client.get("/api/v1/devices").status_code == 200
    again = late.send(httpx.Response(401, request=asked))
    assert (again.url.path, again.headers["authorization"]) == ("/stage/api/v1/devices", "Bearer a1")
    assert api.log == ["traded for a1", "accepted a1"]


def test_a_python_session_that_is_over_shows_its_401_and_goes_on_answering() -> None:
    session = Session("a0", "used before")
    with httpx.Client(base_url=URL, auth=session, transport=httpx.MockTransport(RotatingApi())) as client:
        assert [client.get("/api/v1/devices").status_code for _ in range(2)] == [401, 401]


SCRIPT = """
import { Session } from "./session.js";
let trades = 0;
let ended = 0;
const log = [];
let trade;
const traded = new Promise((resolve) => (trade = resolve));
const api = async (request) => {
  if (request.method === "POST" && request.url === "http://api.example.com/api/v1/auth/refresh") {
    if ((await request.json()).refresh_token !== `r${trades}`) {
      log.push("refused");
      return new Response(null, { status: 401 });
    }
    trades += 1;
    log.push(`traded for a${trades}`);
    return Response.json({ data: { access_token: `a${trades}`, refresh_token: `r${trades}` } });
  }
  const known = trades > ended && request.headers.get("authorization") === `Bearer a${trades}`;
  const body = await request.text();
  if (known) log.push(`accepted a${trades}`);
  if (known && body === "a") trade();
  if (!known && body === "late") await traded;
  return new Response(known ? body : null, { status: known ? 200 : 401 });
};
const ask = (session, body) => session.fetch(new Request("http://api.example.com/x", { method: "POST", body }));
const tokens = { access_token: "a0", refresh_token: "r0" };
const keep = (t) => log.push(`kept ${t.access_token} ${t.refresh_token}`);
const session = new Session({ baseUrl: "http://api.example.com", tokens, keep, fetch: api });
const answers = await Promise.all(["a", "b", "c", "late"].map((body) => ask(session, body)));
ended = 1;
const later = await ask(session, "later");
const shared = [...log];
const over = new Session({ baseUrl: "http://api.example.com", tokens: { ...tokens }, fetch: api });
console.log(JSON.stringify({
  bodies: await Promise.all(answers.map((answer) => answer.text())), log: shared,
  later: await later.text(), over: (await ask(over, "d")).status,
}));
"""


def test_typescript_requests_share_one_trade(tmp_path: Path) -> None:
    tsc, node = generate.NODE_TOOLS / "tsc", shutil.which("node")
    if node is None or not tsc.exists():
        pytest.skip("Node.js or TypeScript is missing: run `make install`")
    source = generate.TYPESCRIPT / "src" / "session.ts"
    options = ["--strict", "--target", "ES2022", "--module", "ES2022", "--lib", "ES2022,DOM", "--skipLibCheck"]
    subprocess.run([tsc, *options, "--outDir", tmp_path, source], check=True)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "try.js").write_text(SCRIPT)
    done = subprocess.run([node, tmp_path / "try.js"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "bodies": ["a", "b", "c", "late"],
        "log": ["traded for a1", "kept a1 r1", *["accepted a1"] * 4, "traded for a2", "kept a2 r2", "accepted a2"],
        "later": "later",
        "over": 401,
    }

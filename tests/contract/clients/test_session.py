"""The clients' sessions refresh their tokens: once for all requests that meet a 401, and never a used token again."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from sdk.clients import generate
from sdk.clients.python.session import Session

pytestmark = pytest.mark.fault("F-24b")

URL = "http://api.example.com"


class RotatingApi:
    """Fake API that accepts only the newest access token, and each refresh token once; requests with an old one meet at
    `together`."""

    def __init__(self, *, together: int = 1) -> None:
        self.trades = 0
        self.refused = threading.Barrier(together)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/auth/refresh":
            if json.loads(request.content)["refresh_token"] != f"r{self.trades}":
                return httpx.Response(401)
            self.trades += 1
            return httpx.Response(
                200, json={"data": {"access_token": f"a{self.trades}", "refresh_token": f"r{self.trades}"}}
            )
        if request.headers["authorization"] == f"Bearer a{self.trades}" and self.trades:
            return httpx.Response(200, content=request.content)
        self.refused.wait(10)
        return httpx.Response(401)


def test_python_threads_share_one_trade() -> None:
    api, kept = RotatingApi(together=8), list[tuple[str, str]]()
    session = Session("a0", "r0", keep=lambda access, refresh: kept.append((access, refresh)))
    with httpx.Client(base_url=URL, auth=session, transport=httpx.MockTransport(api)) as client:

        def ask(number: int) -> httpx.Response:
            return client.post("/api/v1/devices", json=number)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, number) for number in range(8)]
    assert (api.trades, kept, session.access_token) == (1, [("a1", "r1")], "a1")


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
    assert api.trades == 1


def test_a_python_session_that_is_over_shows_its_401_and_goes_on_answering() -> None:
    session = Session("a0", "used before")
    with httpx.Client(base_url=URL, auth=session, transport=httpx.MockTransport(RotatingApi())) as client:
        assert [client.get("/api/v1/devices").status_code for _ in range(2)] == [401, 401]


SCRIPT = """
import { Session } from "./session.js";
let trades = 0;
const kept = [];
const api = async (request) => {
  if (request.url.endsWith("/auth/refresh")) {
    if ((await request.json()).refresh_token !== `r${trades}`) return new Response(null, { status: 401 });
    trades += 1;
    return Response.json({ data: { access_token: `a${trades}`, refresh_token: `r${trades}` } });
  }
  const known = trades > 0 && request.headers.get("authorization") === `Bearer a${trades}`;
  return new Response(known ? await request.text() : null, { status: known ? 200 : 401 });
};
const ask = (session, body) => session.fetch(new Request("http://api.example.com/x", { method: "POST", body }));
const tokens = { access_token: "a0", refresh_token: "r0" };
const session = new Session({ baseUrl: "http://api.example.com", tokens, keep: (t) => kept.push(t), fetch: api });
const answers = await Promise.all(["a", "b", "c"].map((body) => ask(session, body)));
const over = new Session({ baseUrl: "http://api.example.com", tokens: { ...tokens }, fetch: api });
console.log(JSON.stringify({
  bodies: await Promise.all(answers.map((answer) => answer.text())), trades, kept, over: (await ask(over, "d")).status,
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
        "bodies": ["a", "b", "c"],
        "trades": 1,
        "kept": [{"access_token": "a1", "refresh_token": "r1"}],
        "over": 401,
    }

"""The pages of the API's description: everything that they load is ours, and browsers are told to load nothing else."""

from __future__ import annotations

import asyncio
import base64
import gzip
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from api import description
from karma.http.admission import Admission
from karma.http.edge import Edge
from karma.http.serving import Serving
from tests.fakes.devices import FakeClock
from tests.integration.api.conftest import Api
from tests.support.asgi import exchange

pytestmark = [pytest.mark.fault("F-22a"), pytest.mark.req("R-M-21")]


def sent(api: Api, path: str, **headers: str) -> tuple[Any, bytes]:
    """Return an answer of the gateway, and its body as a browser reads it."""
    from api.handler import lambda_handler

    answer = lambda_handler(api.event("GET", path, headers=headers), api.context)
    body = answer.get("body", "")
    data = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
    return answer, gzip.decompress(data) if answer["headers"].get("content-encoding") == "gzip" else data


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_and_all_that_it_loads_come_from_here(api: Api, path: str) -> None:
    answer, body = sent(api, path)
    page = body.decode()
    assert answer["headers"]["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in answer["headers"]["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'", "no inline script runs"
    assert "http" not in "".join(policy.values())
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page), "scripts, none of them inline"
    assert not "".join(re.findall(r"<script[^>]*>([^<]*)</script>", page))
    addresses = [each for each in re.findall(r'(?:src|href)="([^"]*)"', page) if not each.startswith("data:")]
    assert len(addresses) >= 2
    for address in addresses:
        assert re.fullmatch(r"/docs/static/[0-9a-f]{12}/[a-z.-]+", address)
        compressed, unpacked = sent(api, address, **{"accept-encoding": "gzip, br"})
        plain, same = sent(api, address)
        assert compressed["statusCode"] == plain["statusCode"] == 200
        assert unpacked == same != b""
        for each in (compressed, plain):
            assert each["headers"]["cache-control"] == "public, max-age=31536000, immutable"
            kind = "text/css" if address.endswith(".css") else "text/javascript"
            assert each["headers"]["content-type"].startswith(kind)
    assert "/openapi.json" in sent(api, addresses[-1])[1].decode(), "the last script names the document"


@pytest.mark.parametrize("name", [*description.FILES, "nothing.js", "..%2Fapp.py"])
def test_another_version_of_a_file_is_not_kept(api: Api, name: str) -> None:
    answer = api.call("GET", f"/docs/static/000000000000/{name}")
    assert answer.status == 404
    assert answer.headers["cache-control"] == "no-store"


def test_no_file_is_read_before_a_page_is_opened(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "STATIC", description.STATIC / "nowhere")
    description.digest_of.cache_clear()
    try:
        assert api.call("GET", "/api/health").status == 200
        assert api.call("GET", "/docs").status == 500
    finally:
        description.digest_of.cache_clear()


def test_every_other_page_loads_nothing() -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"<p>Hello</p>"})

    unused: Any = None
    parts = Serving(
        clock=FakeClock(datetime(2026, 11, 21, tzinfo=UTC)),
        admission=Admission(authenticator=unused, throttle=unused, origin_secrets=tuple),
        cursor_signer=unused,
        key_ring=unused,
    )
    edge = Edge(page, serving=lambda: parts)
    answer = exchange("GET", "/page")
    asyncio.run(answer.run(edge))
    assert answer.answer_headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.fault("F-26g")
def test_the_document_is_counted_and_sent_once_to_who_keeps_it(api: Api) -> None:
    whole, body = sent(api, "/openapi.json")
    compressed, same = sent(api, "/openapi.json", **{"accept-encoding": "br, gzip;q=0.5"})
    assert body == same
    assert "content-encoding" not in whole["headers"]
    assert compressed["headers"]["content-encoding"] == "gzip"
    etag = whole["headers"]["etag"]
    for known in (etag, f'"other", {etag}', etag.removeprefix("W/"), "*"):
        answer, nothing = sent(api, "/openapi.json", **{"if-none-match": known})
        assert (answer["statusCode"], nothing) == (304, b"")
        assert answer["headers"]["etag"] == etag
    assert sent(api, "/openapi.json", **{"if-none-match": '"other"'})[0]["statusCode"] == 200
    assert whole["headers"]["cache-control"] == "public, no-cache"
    assert api.call("GET", "/openapi.json", query="x=1").status == 422


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP ; Q=0.001", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, br", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("br, *;q=0, gzip;q=1.0", True),
        ("gzip;q=nan", False),
        ("x-gzipped", False),
    ],
)
def test_gzip_goes_to_who_takes_it(accepted: str, *, takes: bool) -> None:
    assert description.takes_gzip(accepted) is takes

"""The API's description: `/openapi.json`, and for people `/docs` (Swagger UI) and `/redoc`, all from this host alone.

The pages load files of `static/`: two short scripts of ours, and the bundles of both programs from npm, which
`make install` puts there compressed (local/api_pages.py). None is read before somebody opens a page.

The URL of a file has the first digits of its SHA-256, so that browsers may cache it forever.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from karma.core.answers import AboutData
from karma.core.errors import NotFound
from karma.core.freeform import render
from karma.core.health import APP, VERSION
from karma.core.records import Record
from karma.http.presenters import BareAnswer, bare
from karma.http.routing import Router

STATIC = Path(__file__).with_name("static")
PATH = "/docs/static"
_CSS, _JS = "text/css; charset=utf-8", "text/javascript; charset=utf-8"
_TYPES = {".css": _CSS, ".js": _JS}
FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "swagger.js", "redoc.standalone.js", "redoc.js")
"""Names of all files that are served. A bundle is stored as `<name>.gz`."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # both programs make style elements; no text of others is in the pages
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src blob:",  # Redoc's search
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_KEPT_FOR_GOOD = "public, max-age=31536000, immutable"

router = Router("about", prefix="")


@router.get("/", limit="public")
async def root() -> BareAnswer[AboutData]:
    """Name this API and the address of its description."""
    return bare({"app": APP, "version": VERSION, "docs": "/docs", "openapi": "/openapi.json"})


@router.get("/openapi.json", limit="public", include_in_schema=False)
async def openapi_document(request: Request) -> Response:
    """Send the description, written once a process; who has it already is told so."""
    return _document().answer(request)


@router.get("/docs", limit="public", include_in_schema=False)
async def swagger_ui() -> Response:
    """Show the description in Swagger UI, where requests can be tried."""
    return _page("swagger-ui.css", "swagger-ui-bundle.js", "swagger.js")


@router.get("/redoc", limit="public", include_in_schema=False)
async def redoc() -> Response:
    """Show the description in Redoc, for reading."""
    return _page("redoc.standalone.js", "redoc.js")


@router.get(PATH + "/{digest}/{name}", limit="public", include_in_schema=False)
async def static_file(digest: str, name: str, request: Request) -> Response:
    """Send a file of the pages, compressed to those who accept it."""
    if name not in FILES or digest != digest_of(name):
        raise NotFound("No such file")
    headers = {"cache-control": _KEPT_FOR_GOOD, "vary": "accept-encoding", "x-content-type-options": "nosniff"}
    body, is_compressed = _read(name)
    if is_compressed and takes_gzip(request.headers.get("accept-encoding", "")):
        headers["content-encoding"] = "gzip"
    elif is_compressed:
        body = gzip.decompress(body)
    return Response(body, headers=headers, media_type=_TYPES[Path(name).suffix])


class Document(Record):
    """The description as it is sent, with its ETag: it changes with a release only, and may be kept and asked about."""

    body: bytes
    compressed: bytes
    digest: str

    @classmethod
    def of(cls, schema: Mapping[str, object]) -> Document:
        """Write a description."""
        body = render(schema)
        return cls(body, gzip.compress(body, mtime=0), hashlib.sha256(body).hexdigest()[:16])

    def answer(self, request: Request) -> Response:
        """Send it, compressed to those who accept it, or 304 to those who have it."""
        # Weak: the bytes of both forms differ.
        headers = {"cache-control": "public, no-cache", "etag": f'W/"{self.digest}"', "vary": "accept-encoding"}
        known = request.headers.get("if-none-match", "")
        if known.strip() == "*" or self.digest in re.findall(r'"([^"]*)"', known):
            return Response(status_code=304, headers=headers)
        body = self.body
        if takes_gzip(request.headers.get("accept-encoding", "")):
            body, headers["content-encoding"] = self.compressed, "gzip"
        return Response(body, headers=headers, media_type="application/json")


def takes_gzip(accept_encoding: str) -> bool:
    """Tell whether a client takes gzip: it is named, or `*` is, with a weight above 0 (RFC 9110, 12.5.3)."""
    weights: dict[str, float] = {}
    for each in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        given = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        weights[name] = float(given) if _WEIGHT.fullmatch(given) else 0
    return weights.get("gzip", weights.get("*", 0)) > 0


@cache
def _document() -> Document:
    from api.app import build  # local: it imports every route, and FastAPI's application

    return Document.of(build().openapi())


@cache
def digest_of(name: str) -> str:
    """Return the digits of a file's SHA-256 that are part of its URL."""
    return hashlib.sha256(_read(name)[0]).hexdigest()[:12]


def _read(name: str) -> tuple[bytes, bool]:
    """Return a file's bytes, and whether they are compressed."""
    plain = STATIC / name
    return (plain.read_bytes(), False) if plain.exists() else ((STATIC / f"{name}.gz").read_bytes(), True)


def _page(*names: str) -> Response:
    links = []
    for name in names:
        address = f"{PATH}/{digest_of(name)}/{name}"
        is_style = name.endswith(".css")
        links.append(
            f'<link rel="stylesheet" href="{address}">' if is_style else f'<script defer src="{address}"></script>'
        )
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>karma-cloud</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,">{"".join(links)}</head><body><div id="page"></div></body></html>'
    )
    return Response(body, headers={"content-security-policy": POLICY}, media_type="text/html")

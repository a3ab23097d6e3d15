"""Headers of viewers that CloudFront forwards to the functions, and headers that it sends to browsers."""

from __future__ import annotations

import asyncio
import json
import re
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent_stream.app import ROUTES
from api import description
from api.routes import oauth
from infra.artifacts import source_entries
from infra.constructs.cors import REQUEST_HEADERS
from infra.constructs.edge import STATIC_PATHS, STREAM_PATHS
from karma.http import addresses
from tests.infra.synthesized import Json, Synthesized
from tests.support import contract

pytestmark = pytest.mark.fault("F-22b")

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = ROOT / "functions"
READERS = (FUNCTIONS / "api", FUNCTIONS / "agent_stream", ROOT / "layers/common/python/karma/http")
OF_NO_VIEWER = {"x-karma-origin", "content-length", "accept-encoding"}
"""Headers that CloudFront sets itself: its proof, the length of the body that it forwards, and gzip or not."""
NOT_READ = {"cache-control", "x-request-id"}
"""Headers that browsers may send and no function reads."""
_READ = re.compile(r'(?:headers\.get|header|_header)\((?:scope, )?b?"([A-Za-z-]+)"')


def the(aws: Synthesized, kind: str) -> Json:
    found = aws.of_type(f"AWS::CloudFront::{kind}")
    (path,) = (each for each in found if "EdgeStatic" not in each)
    properties: Json = found[path]["Properties"]
    return properties


def reaching(aws: Synthesized) -> set[str]:
    cached = the(aws, "CachePolicy")["CachePolicyConfig"]["ParametersInCacheKeyAndForwardedToOrigin"]["HeadersConfig"]
    passed = the(aws, "OriginRequestPolicy")["OriginRequestPolicyConfig"]["HeadersConfig"]
    assert {cached["HeaderBehavior"], passed["HeaderBehavior"]} == {"whitelist"}
    for config in (cached, passed):
        assert len(config["Headers"]) <= 10, "AWS's quota"
    return {name.lower() for config in (cached, passed) for name in config["Headers"]}


def read_by_functions() -> set[str]:
    """Name the headers that the API and the stream read: in their sources, and as parameters of their documents."""
    sources = [path for folder in READERS for path in folder.rglob("*.py")]
    found = {match.lower() for path in sources for match in _READ.findall(path.read_text())}
    for name in contract.DOCUMENTS:
        for operations in contract.committed(name)["paths"].values():
            for operation in operations.values():
                parameters = operation.get("parameters", ())
                found |= {each["name"].lower() for each in parameters if each["in"] == "header"}
    return found


def test_every_header_that_the_code_reads_reaches_it_and_no_other_does(aws: Synthesized) -> None:
    read = read_by_functions()
    assert {"authorization", "x-api-key", "last-event-id", "if-match", "cloudfront-viewer-address"} <= read
    by_the_edges = {"origin", "access-control-request-headers", "access-control-request-method"}
    from_browsers = set(REQUEST_HEADERS) - NOT_READ
    assert reaching(aws) == (read - OF_NO_VIEWER) | by_the_edges | from_browsers
    assert "host" not in reaching(aws)


def test_the_paths_of_the_stream_are_those_that_it_serves() -> None:
    assert set(STREAM_PATHS) == {re.sub(r"{[^}]*}", "*", route.path) for route in ROUTES}
    assert set(STREAM_PATHS) == set(addresses.STREAM_PATHS), "the functions tell clients of others than it sends on"


class Jar(dict[str, str]):
    """Cookies of a request, and the names by which they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return default


def cookies_of_a_login(monkeypatch: pytest.MonkeyPatch, api_url: str) -> tuple[set[str], set[str]]:
    """Return the names of the cookies that a login sets, and of those that it reads, at an address of the API."""
    logins = SimpleNamespace(
        start=lambda *_, **__: SimpleNamespace(url="https://provider.example.com", browser_secret="b"),
        resume=lambda *_, **__: SimpleNamespace(redirect="https://app.example.com"),
        finish=lambda *_, **__: {"code": "c"},
    )
    monkeypatch.setattr(oauth, "identity", SimpleNamespace(oauth=lambda: logins))
    monkeypatch.setattr(oauth, "process", SimpleNamespace(settings=lambda: SimpleNamespace(api_url=api_url)))
    begun = asyncio.run(oauth.start_oauth("github"))
    request, source = SimpleNamespace(cookies=Jar(), headers={}), SimpleNamespace(request_id="r")
    ended = asyncio.run(oauth.end_oauth(request, source, "github", code="c", state="s"))  # type: ignore[arg-type]
    written = SimpleCookie()
    for answer in (begun, ended):
        written.load(answer.headers["set-cookie"])
    return set(written), request.cookies.asked


@pytest.mark.fault("F-22e")
def test_the_cookie_of_logins_reaches_the_api_and_no_other(aws: Synthesized, monkeypatch: pytest.MonkeyPatch) -> None:
    cookies = the(aws, "OriginRequestPolicy")["OriginRequestPolicyConfig"]["CookiesConfig"]
    assert cookies["CookieBehavior"] == "whitelist"
    forwarded = set(cookies["Cookies"])
    assert cookies_of_a_login(monkeypatch, "https://api.example.com") == (forwarded, forwarded)


def test_no_other_route_reads_a_cookie() -> None:
    readers = {path.stem for folder in READERS for path in folder.rglob("*.py") if ".cookies" in path.read_text()}
    assert readers == {"oauth"}


def policies(aws: Synthesized, kind: str) -> dict[str, str]:
    """Return the paths of policies in their stack by the reference to them."""
    return {path.partition("/")[2]: path for path in aws.of_type(f"AWS::CloudFront::{kind}")}


def test_the_policies_hold_for_every_path(aws: Synthesized) -> None:
    distribution = the(aws, "Distribution")["DistributionConfig"]
    for behavior in (distribution["DefaultCacheBehavior"], *distribution["CacheBehaviors"]):
        for member, kind in (
            ("CachePolicyId", "CachePolicy"),
            ("OriginRequestPolicyId", "OriginRequestPolicy"),
            ("ResponseHeadersPolicyId", "ResponseHeadersPolicy"),
        ):
            path = policies(aws, kind)[behavior[member]["Ref"]]
            is_static = kind == "CachePolicy" and behavior.get("PathPattern") in STATIC_PATHS
            assert ("Static" in path) is is_static, behavior.get("PathPattern")


@pytest.mark.fault("F-22f")
def test_files_named_by_their_content_are_kept_as_long_as_they_say(aws: Synthesized) -> None:
    assert (f"{description.PATH}/*",) == STATIC_PATHS
    found = aws.of_type("AWS::CloudFront::CachePolicy")
    (static,) = (each["Properties"]["CachePolicyConfig"] for path, each in found.items() if "Static" in path)
    said = re.search(r"max-age=(\d+), immutable", (FUNCTIONS / "api/description.py").read_text())
    assert said is not None
    assert static["MaxTTL"] >= int(said[1])
    key = static["ParametersInCacheKeyAndForwardedToOrigin"]
    assert key["HeadersConfig"]["HeaderBehavior"] == key["CookiesConfig"]["CookieBehavior"] == "none"
    assert key["EnableAcceptEncodingGzip"], "the files are given compressed or not"
    behaviors = the(aws, "Distribution")["DistributionConfig"]["CacheBehaviors"]
    methods = {each["PathPattern"]: each["AllowedMethods"] for each in behaviors}
    assert methods["/docs/static/*"] == ["GET", "HEAD"]


@pytest.mark.fault("F-22g")
def test_no_log_holds_a_path_or_a_query(prod: Synthesized) -> None:
    """Links to shared files, codes of logins and tickets are in addresses; the functions log a route's template."""
    assert "Logging" not in the(prod, "Distribution")["DistributionConfig"]
    stages = prod.of_type("AWS::ApiGatewayV2::Stage").values()
    formats = [each["Properties"]["AccessLogSettings"]["Format"] for each in stages]
    assert len(formats) == 3, "the API, webhooks of Stripe, and WebSockets"
    for text in formats:
        named = set(re.findall(r"\$context\.([A-Za-z.]+)", text))
        assert named
        assert not {name for name in named if re.search("path|query|uri|url", name, re.IGNORECASE)}
    secret = [name for name in contract.DOCUMENTS for path in contract.committed(name)["paths"] if "{token}" in path]
    assert secret, "a secret stands in a path: the rule has a reason"


def test_nothing_is_kept_for_another_caller(aws: Synthesized) -> None:
    config = the(aws, "CachePolicy")["CachePolicyConfig"]
    assert (config["MinTTL"], config["DefaultTTL"], config["MaxTTL"]) == (0, 0, 1)
    key = config["ParametersInCacheKeyAndForwardedToOrigin"]
    assert {"Authorization", "X-API-Key", "Accept"} <= set(key["HeadersConfig"]["Headers"])
    assert key["QueryStringsConfig"]["QueryStringBehavior"] == "all"
    passed = the(aws, "OriginRequestPolicy")["OriginRequestPolicyConfig"]
    assert passed["QueryStringsConfig"]["QueryStringBehavior"] == "all"


@pytest.mark.fault("F-22a")
def test_every_answer_has_a_content_security_policy_unless_its_origin_gave_one(aws: Synthesized) -> None:
    headers = the(aws, "ResponseHeadersPolicy")["ResponseHeadersPolicyConfig"]["SecurityHeadersConfig"]
    policy = headers["ContentSecurityPolicy"]
    assert policy["Override"] is False
    assert "default-src 'none'" in policy["ContentSecurityPolicy"]
    assert "http" not in json.dumps(policy), "no other host"


@pytest.mark.fault("F-22a")
def test_the_api_s_archive_holds_what_its_pages_load() -> None:
    shipped = {entry.name for entry in source_entries(FUNCTIONS / "api", prefix="api")}
    for name in description.FILES:
        assert shipped & {f"api/static/{name}", f"api/static/{name}.gz"}, f"{name} is missing: run `make install`"


@pytest.mark.fault("F-22d")
def test_no_error_is_kept(aws: Synthesized) -> None:
    """CloudFront keeps these statuses for ten seconds by itself (its documentation on error responses lists them)."""
    told = the(aws, "Distribution")["DistributionConfig"]["CustomErrorResponses"]
    assert {each["ErrorCode"]: each["ErrorCachingMinTTL"] for each in told} == dict.fromkeys(
        (400, 403, 404, 405, 414, 416, 500, 501, 502, 503, 504), 0
    )
    assert all(set(each) == {"ErrorCode", "ErrorCachingMinTTL"} for each in told), "a page in the place of the answer"

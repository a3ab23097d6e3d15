"""CloudFront: API and stream URL under one host, which authenticates itself to both by a secret header."""

from typing import Any

from aws_cdk import Duration, SecretValue
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_cloudfront as cloudfront
from aws_cdk import aws_cloudfront_origins as origins
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.waivers import waive

ORIGIN_HEADER = "x-karma-origin"
CHOOSING_HEADERS = ("Accept", "Authorization", "Origin", "X-API-Key")
"""Viewer headers on which the answer depends: part of the cache key, so that no answer is another caller's. CloudFront
has no other way for `Authorization`, and allows ten headers here and ten in `PASSED_HEADERS`.
"""
PASSED_HEADERS = (
    "Access-Control-Request-Headers",
    "Access-Control-Request-Method",
    "CloudFront-Viewer-Address",
    "Content-Encoding",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "User-Agent",
)
"""Other headers that reach the origins. CloudFront adds the viewer's address itself, but only when it is listed here.
Host is not passed on: the origins are chosen by their own names. tests/infra/test_edge.py compares with the code.
"""
LOGIN_COOKIE = "__Host-karma-oauth"
"""Cookie that binds a login through a provider to its browser, by its name on https; no other cookie is read."""
NOTHING_LOADED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of answers whose origin gave none: they load nothing and are shown in no frame."""
KEPT_ERRORS = (400, 403, 404, 405, 414, 416, 500, 501, 502, 503, 504)
"""Statuses that CloudFront keeps for ten seconds, whatever the origin allows, unless it is told otherwise for each."""
STATIC_PATHS = ("/docs/static/*",)
"""Paths of files whose address names their content: what is kept of them never gets old."""
STREAM_READ_TIMEOUT_S = 60
"""Longest silence on a stream in seconds; the app sends a comment every 10 s."""

STREAM_PATHS = (
    "/api/agent",
    "/api/v1/agent",
    "/api/chat",
    "/api/v1/chat",
    "/api/v1/llm/messages",
    "/api/v1/runs/*/events",
    "/api/v1/realtime/stream",
)
"""Paths that CloudFront sends to the stream URL: those that functions/agent_stream serves."""


class Edge(Construct):
    """A distribution that caches only what an origin allows, for a second unless its address names its content."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: StageSettings,
        api_host: str,
        stream_host: str,
        header: SecretValue,
    ) -> None:
        super().__init__(scope, construct_id)
        proof = {ORIGIN_HEADER: header.unsafe_unwrap()}
        cached, passed, answered = self._cache_policy(settings), self._passed(settings), self._security_headers()

        api, stream = _origin(api_host, 30, proof), _origin(stream_host, STREAM_READ_TIMEOUT_S, proof)

        def behavior(origin: origins.HttpOrigin, **more: Any) -> cloudfront.BehaviorOptions:
            given: dict[str, Any] = {
                "allowed_methods": cloudfront.AllowedMethods.ALLOW_ALL,
                "cache_policy": cached,
                "origin_request_policy": passed,
                "response_headers_policy": answered,
            }
            return cloudfront.BehaviorOptions(
                origin=origin,
                viewer_protocol_policy=cloudfront.ViewerProtocolPolicy.REDIRECT_TO_HTTPS,
                compress=False,
                **(given | more),
            )

        streaming = behavior(stream)
        static = behavior(
            api,
            allowed_methods=cloudfront.AllowedMethods.ALLOW_GET_HEAD,
            cache_policy=self._static_policy(settings),
        )
        domain = settings.overrides.public_domain
        self.distribution = cloudfront.Distribution(
            self,
            "Distribution",
            comment=f"{settings.stack_prefix}: API and stream",
            default_behavior=behavior(api),
            additional_behaviors={**dict.fromkeys(STREAM_PATHS, streaming), **dict.fromkeys(STATIC_PATHS, static)},
            error_responses=[
                cloudfront.ErrorResponse(http_status=status, ttl=Duration.seconds(0)) for status in KEPT_ERRORS
            ],
            domain_names=[domain] if domain else None,
            certificate=(
                acm.Certificate.from_certificate_arn(self, "Certificate", settings.overrides.certificate_arn)
                if domain
                else None
            ),
            minimum_protocol_version=cloudfront.SecurityPolicyProtocol.TLS_V1_2_2021 if domain else None,
            http_version=cloudfront.HttpVersion.HTTP2_AND_3,
            price_class=cloudfront.PriceClass.PRICE_CLASS_100,
        )
        self.url = f"https://{domain or self.distribution.distribution_domain_name}"
        self._waive(has_domain=bool(domain))

    def _waive(self, *, has_domain: bool) -> None:
        waive(self.distribution, "AwsSolutions-CFR1", "devices and users are anywhere; no country is shut out")
        waive(
            self.distribution,
            "AwsSolutions-CFR2",
            "every route asks for a token and is rate limited per caller; a web ACL, if wanted, lives in us-east-1",
        )
        # Those logs hold whole paths and queries, and no setting leaves these out: links to shared files are in them,
        # and codes of logins.
        waive(
            self.distribution,
            "AwsSolutions-CFR3",
            "its logs would hold the secrets of paths and queries; the functions log each request's route",
        )
        if not has_domain:
            waive(
                self.distribution,
                "AwsSolutions-CFR4",
                "CloudFront's own certificate fixes the protocol; a custom domain gets TLS 1.2",
            )

    def _cache_policy(self, settings: StageSettings) -> cloudfront.CachePolicy:
        # A policy that keeps nothing at all may name no headers, hence the second. Every answer of ours says no-store,
        # no-cache or what may be kept, which is also why no caller waits for another's answer to the same question.
        return cloudfront.CachePolicy(
            self,
            "Cache",
            cache_policy_name=f"{settings.stack_prefix}-per-caller",
            comment="Kept for a second at most, by caller, and only what the origin allows",
            min_ttl=Duration.seconds(0),
            default_ttl=Duration.seconds(0),
            max_ttl=Duration.seconds(1),
            header_behavior=cloudfront.CacheHeaderBehavior.allow_list(*CHOOSING_HEADERS),
            query_string_behavior=cloudfront.CacheQueryStringBehavior.all(),
            cookie_behavior=cloudfront.CacheCookieBehavior.none(),
            enable_accept_encoding_gzip=True,
        )

    def _static_policy(self, settings: StageSettings) -> cloudfront.CachePolicy:
        return cloudfront.CachePolicy(
            self,
            "Static",
            cache_policy_name=f"{settings.stack_prefix}-static",
            comment="Kept as long as the origin says, for everybody",
            min_ttl=Duration.seconds(0),
            default_ttl=Duration.seconds(0),
            max_ttl=Duration.days(365),
            header_behavior=cloudfront.CacheHeaderBehavior.none(),
            query_string_behavior=cloudfront.CacheQueryStringBehavior.none(),
            cookie_behavior=cloudfront.CacheCookieBehavior.none(),
            enable_accept_encoding_gzip=True,
        )

    def _passed(self, settings: StageSettings) -> cloudfront.OriginRequestPolicy:
        return cloudfront.OriginRequestPolicy(
            self,
            "Passed",
            origin_request_policy_name=f"{settings.stack_prefix}-read-headers",
            comment="The headers that the functions read, and no Host",
            header_behavior=cloudfront.OriginRequestHeaderBehavior.allow_list(*PASSED_HEADERS),
            query_string_behavior=cloudfront.OriginRequestQueryStringBehavior.all(),
            cookie_behavior=cloudfront.OriginRequestCookieBehavior.allow_list(LOGIN_COOKIE),
        )

    def _security_headers(self) -> cloudfront.ResponseHeadersPolicy:
        return cloudfront.ResponseHeadersPolicy(
            self,
            "SecurityHeaders",
            security_headers_behavior=cloudfront.ResponseSecurityHeadersBehavior(
                # Not over an origin's own: the pages of the API's description load scripts and styles of ours.
                content_security_policy=cloudfront.ResponseHeadersContentSecurityPolicy(
                    content_security_policy=NOTHING_LOADED, override=False
                ),
                content_type_options=cloudfront.ResponseHeadersContentTypeOptions(override=True),
                frame_options=cloudfront.ResponseHeadersFrameOptions(
                    frame_option=cloudfront.HeadersFrameOption.DENY, override=True
                ),
                referrer_policy=cloudfront.ResponseHeadersReferrerPolicy(
                    referrer_policy=cloudfront.HeadersReferrerPolicy.NO_REFERRER, override=True
                ),
                strict_transport_security=cloudfront.ResponseHeadersStrictTransportSecurity(
                    access_control_max_age=Duration.days(365), include_subdomains=True, override=True
                ),
            ),
        )


def _origin(host: str, read_timeout_s: int, proof: dict[str, str]) -> origins.HttpOrigin:
    return origins.HttpOrigin(
        host,
        protocol_policy=cloudfront.OriginProtocolPolicy.HTTPS_ONLY,
        origin_ssl_protocols=[cloudfront.OriginSslPolicy.TLS_V1_2],
        custom_headers=proof,
        read_timeout=Duration.seconds(read_timeout_s),
        keepalive_timeout=Duration.seconds(5),
    )

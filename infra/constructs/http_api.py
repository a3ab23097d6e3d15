"""HTTP APIs in front of functions: throttled, logged, with CORS at the edge."""

from aws_cdk import Aws
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.api_gateway import HTTP_LOG_FIELDS, deploy_stage, engine_tags, integrate
from infra.constructs.cors import METHODS, PREFLIGHT_MAX_AGE_S, REQUEST_HEADERS, RESPONSE_HEADERS
from infra.constructs.function_url import FunctionUrl
from infra.constructs.waivers import waive


class FunctionHttpApi(Construct):
    """An HTTP API whose one route goes to one function.

    `route` is `$default` for everything, or one `METHOD /path`. `open_because` is the reason why the gateway need
    not authenticate callers. `engine_id` is the embedded engine's fixed API id. In a stage without HTTP APIs a function
    URL takes its place: the same events, no limits of its own, no access log, and no `api_id`.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: StageSettings,
        target: lambda_.IFunction,
        name: str,
        route: str,
        cors: bool,
        rate_per_s: int,
        burst: int,
        open_because: str,
        engine_id: str | None,
    ) -> None:
        super().__init__(scope, construct_id)
        if not settings.http_apis:
            self.api_id = ""
            self.host = FunctionUrl(self, "Direct", settings=settings, target=target, streaming=False, cors=cors).host
            return
        api = apigateway.CfnApi(
            self,
            "Api",
            name=f"{settings.stack_prefix}-{name}",
            protocol_type="HTTP",
            cors_configuration=_cors(settings) if cors else None,
            tags=engine_tags(engine_id),
        )
        integration = integrate(self, "Integration", api=api, target=target, payload_version="2.0")
        open_route = apigateway.CfnRoute(
            self, "Route", api_id=api.ref, route_key=route, target=integration, authorization_type="NONE"
        )
        waive(open_route, "AwsSolutions-APIG4", open_because)
        deploy_stage(
            self,
            "Stage",
            api=api,
            name="$default",
            settings=settings,
            log_fields=HTTP_LOG_FIELDS,
            rate_per_s=rate_per_s,
            burst=burst,
        )
        self.api_id = api.ref
        self.host = f"{api.ref}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}"


def _cors(settings: StageSettings) -> apigateway.CfnApi.CorsProperty:
    return apigateway.CfnApi.CorsProperty(
        allow_credentials=True,
        allow_headers=list(REQUEST_HEADERS),
        allow_methods=list(METHODS),
        allow_origins=list(settings.cors_origins),
        expose_headers=list(RESPONSE_HEADERS),
        max_age=PREFLIGHT_MAX_AGE_S,
    )

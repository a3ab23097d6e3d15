"""Common parts of the HTTP and WebSocket APIs: an integration, its permission, a logged and throttled stage."""

import json

from aws_cdk import Aws, Fn, RemovalPolicy, Stack
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.python_function import retention_of

ENGINE_ID_TAG = "ms-custom-id"
HTTP_LOG_FIELDS = (
    "requestId",
    "identity.sourceIp",
    "requestTime",
    "httpMethod",
    "routeKey",
    "status",
    "responseLength",
    "integrationLatency",
)
WEBSOCKET_LOG_FIELDS = (
    "requestId",
    "connectionId",
    "identity.sourceIp",
    "requestTime",
    "eventType",
    "routeKey",
    "status",
)
"""Fields of the access log: caller, request and outcome; never a body, a query string or a token."""


def engine_tags(engine_id: str | None) -> dict[str, str] | None:
    """Return the tag by which the embedded engine gives an API the stated id."""
    return {ENGINE_ID_TAG: engine_id} if engine_id else None


def integrate(
    scope: Construct,
    construct_id: str,
    *,
    api: apigateway.CfnApi,
    target: lambda_.IFunction,
    payload_version: str | None,
) -> str:
    """Connect an API with a function and let only that API invoke it; return the route target."""
    stack = Stack.of(scope)
    service = f"arn:{Aws.PARTITION}:apigateway:{Aws.REGION}:lambda:path/2015-03-31"
    service = f"arn:{Aws.PARTITION}:apigateway:{Aws.REGION}:lambda:path/2015-03-31"
    service = f"arn:{Aws.PARTITION}:apigateway:{Aws.REGION}:lambda:path/2015-03-31"
    invocation = f"{service}/functions/{target.function_arn}/invocations"
    integration = apigateway.CfnIntegration(
        scope,
        construct_id,
        api_id=api.ref,
        integration_type="AWS_PROXY",
        integration_uri=target.function_arn if payload_version else invocation,
        payload_format_version=payload_version,
    )
    lambda_.CfnPermission(
        scope,
        f"{construct_id}Permission",
        action="lambda:InvokeFunction",
        function_name=target.function_arn,
        principal="apigateway.amazonaws.com",
        source_arn=stack.format_arn(service="execute-api", resource=api.ref, resource_name="*"),
    )
    return Fn.join("/", ["integrations", integration.ref])


def deploy_stage(
    scope: Construct,
    construct_id: str,
    *,
    api: apigateway.CfnApi,
    name: str,
    settings: StageSettings,
    log_fields: tuple[str, ...],
    rate_per_s: int,
    burst: int,
) -> apigateway.CfnStage:
    """Publish an API's routes as they are, throttled, with an access log where the stage has one."""
    logging: apigateway.CfnStage.AccessLogSettingsProperty | None = None
    if settings.access_logs:
        group = logs.LogGroup(
            scope,
            f"{construct_id}AccessLogs",
            retention=retention_of(settings),
            removal_policy=RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY,
        )
        logging = apigateway.CfnStage.AccessLogSettingsProperty(
            destination_arn=group.log_group_arn,
            format=json.dumps({field.rpartition(".")[2]: f"$context.{field}" for field in log_fields}),
        )
    return apigateway.CfnStage(
        scope,
        construct_id,
        api_id=api.ref,
        stage_name=name,
        auto_deploy=True,
        access_log_settings=logging,
        default_route_settings=apigateway.CfnStage.RouteSettingsProperty(
            throttling_rate_limit=rate_per_s, throttling_burst_limit=burst
        ),
    )

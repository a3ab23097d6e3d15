"""The WebSocket API: every route calls the realtime function, whose answer is sent to the caller."""

from aws_cdk import Aws, Stack
from aws_cdk import aws_apigateway as account_settings
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.api_gateway import WEBSOCKET_LOG_FIELDS, deploy_stage, engine_tags, integrate
from infra.constructs.waivers import waive

STAGE_NAME = "live"


class FunctionWebsocketApi(Construct):
    """A WebSocket API: clients connect with a one-use ticket, which the function checks, and subscribe to channels."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: StageSettings,
        target: lambda_.IFunction,
        engine_id: str | None,
    ) -> None:
        super().__init__(scope, construct_id)
        api = apigateway.CfnApi(
            self,
            "Api",
            name=f"{settings.stack_prefix}-realtime",
            protocol_type="WEBSOCKET",
            route_selection_expression="$request.body.action",
            tags=engine_tags(engine_id),
        )
        integration = integrate(self, "Integration", api=api, target=target, payload_version=None)
        for key in ("$connect", "$disconnect", "$default"):
            name = key.removeprefix("$").capitalize()
            answering = key == "$default" and settings.route_responses
            route = apigateway.CfnRoute(
                self,
                name,
                api_id=api.ref,
                route_key=key,
                target=integration,
                authorization_type="NONE",
                route_response_selection_expression="$default" if answering else None,
            )
            if answering:
                apigateway.CfnRouteResponse(
                    self, f"{name}Response", api_id=api.ref, route_id=route.ref, route_response_key="$default"
                )
            waive(
                route,
                "AwsSolutions-APIG4",
                "the function admits a connection by its one-use ticket",
            )
        stage = deploy_stage(
            self,
            "Stage",
            api=api,
            name=STAGE_NAME,
            settings=settings,
            log_fields=WEBSOCKET_LOG_FIELDS,
            rate_per_s=500,
            burst=1000,
        )
        if settings.access_logs:
            stage.add_resource_dependency(self._log_permission())
        self.api_id = api.ref
        self.connections_arn = self._managed(api, "DELETE")
        """Resource whose DELETE closes a connection, as the API does when a session ends."""
        self.messages_arn = self._managed(api, "POST")
        """Resource whose POST sends to a connection."""
        self.url = f"wss://{api.ref}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}/{STAGE_NAME}"

    def _managed(self, api: apigateway.CfnApi, verb: str) -> str:
        path = f"{STAGE_NAME}/{verb}/@connections/*"
        return Stack.of(self).format_arn(service="execute-api", resource=api.ref, resource_name=path)

    def _log_permission(self) -> account_settings.CfnAccount:
        """Let API Gateway write WebSocket access logs: an account-wide setting, and a stage has its own account."""
        role = iam.Role(
            self,
            "LogRole",
            assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonAPIGatewayPushToCloudWatchLogs")
            ],
        )
        waive(
            role,
            "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs]",
            "API Gateway accepts this account-wide setting only with the rights of this policy",
        )
        return account_settings.CfnAccount(self, "Account", cloud_watch_role_arn=role.role_arn)

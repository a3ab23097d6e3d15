"""Streaming Function URL: the address of every route that answers as it goes."""

from aws_cdk import Duration, Fn
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.http_api import PREFLIGHT_MAX_AGE_S, REQUEST_HEADERS, RESPONSE_HEADERS


class StreamUrl(Construct):
    """Function URL with RESPONSE_STREAM on the alias.

    AuthType is NONE, because stock clients cannot sign streamed POSTs: the app checks the token, and in stages with
    CloudFront also the secret header that CloudFront adds.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: StageSettings, target: lambda_.IFunction
    ) -> None:
        super().__init__(scope, construct_id)
        endpoint = lambda_.FunctionUrl(
            self,
            "Url",
            function=target,
            auth_type=lambda_.FunctionUrlAuthType.NONE,
            invoke_mode=lambda_.InvokeMode.RESPONSE_STREAM,
            cors=lambda_.FunctionUrlCorsOptions(
                allow_credentials=True,
                allowed_headers=list(REQUEST_HEADERS),
                allowed_methods=[lambda_.HttpMethod.GET, lambda_.HttpMethod.POST],
                allowed_origins=list(settings.cors_origins),
                exposed_headers=list(RESPONSE_HEADERS),
                max_age=Duration.seconds(PREFLIGHT_MAX_AGE_S),
            ),
        )
        self.url = endpoint.url
        self.host = Fn.select(2, Fn.split("/", endpoint.url))

"""Function URLs: the address of routes that stream, and of all routes in stages without HTTP APIs."""

from aws_cdk import Duration, Fn
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.cors import METHODS, PREFLIGHT_MAX_AGE_S, REQUEST_HEADERS, RESPONSE_HEADERS


class FunctionUrl(Construct):
    """Function URL on the alias, with RESPONSE_STREAM if it is `streaming`.

    AuthType is NONE, because stock clients cannot sign streamed POSTs: the app checks the token, and in stages with
    CloudFront also the secret header that CloudFront adds.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: StageSettings,
        target: lambda_.IFunction,
        streaming: bool,
        cors: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        endpoint = lambda_.FunctionUrl(
            self,
            "Url",
            function=target,
            auth_type=lambda_.FunctionUrlAuthType.NONE,
            invoke_mode=lambda_.InvokeMode.RESPONSE_STREAM if streaming else lambda_.InvokeMode.BUFFERED,
            cors=_cors(settings, streaming=streaming) if cors else None,
        )
        self.url = endpoint.url
        self.host = Fn.select(2, Fn.split("/", endpoint.url))


def _cors(settings: StageSettings, *, streaming: bool) -> lambda_.FunctionUrlCorsOptions:
    # OPTIONS is no method of a function URL's settings: Lambda answers preflights by itself.
    methods = ("GET", "POST") if streaming else tuple(method for method in METHODS if method != "OPTIONS")
    return lambda_.FunctionUrlCorsOptions(
        allow_credentials=True,
        allowed_headers=list(REQUEST_HEADERS),
        allowed_methods=[lambda_.HttpMethod[method] for method in methods],
        allowed_origins=list(settings.cors_origins),
        exposed_headers=list(RESPONSE_HEADERS),
        max_age=Duration.seconds(PREFLIGHT_MAX_AGE_S),
    )

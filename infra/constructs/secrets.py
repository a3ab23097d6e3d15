"""Secrets: generated where nobody else knows the value, otherwise empty JSON documents that the operator fills.

Shapes (JSON): auth `{"current": kid, <kid>: key}` · stripe-webhook `{"secrets": [..]}` · stripe-api, model
`{"api_key": ".."}` · oauth `{"github": {"client_id": "..", "client_secret": ".."}, "google": {..}}` · origin
`{"secrets": [..]}`. CloudFormation writes a value only when its template text changes,
so filled values stay.
"""

import json

from aws_cdk import RemovalPolicy, SecretValue
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.waivers import waive

SIGNING_KEY_LENGTH = 64


class Secrets(Construct):
    """Every secret of a stage, by the name that grants use."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: StageSettings) -> None:
        super().__init__(scope, construct_id)
        given = settings.overrides
        self._removal = RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY
        self.by_name: dict[str, secretsmanager.Secret] = {
            "auth": self._generated("Auth", key="k1", template={"current": "k1"}),
            "model": self._document("Model", {"api_key": given.model_api_key}),
            "oauth": self._document("OAuth", {}),
            "stripe-api": self._document("StripeApi", {"api_key": given.stripe_api_key}),
            "stripe-webhook": self._document("StripeWebhook", {"secrets": list(given.stripe_webhook_secrets)}),
        }
        rotation = {
            "auth": "keys rotate by adding a kid: two are valid meanwhile, which a rotation function of AWS cannot do",
            "model": "the vendor issues the key; the operator replaces it",
            "oauth": "GitHub and Google issue the clients' secrets; the operator replaces them",
            "stripe-api": "Stripe issues the key; the operator rolls it in Stripe's dashboard first",
            "stripe-webhook": "Stripe issues the secret; two are accepted while it is rolled",
        }
        self.origin_header: SecretValue | None = None
        if settings.edge:
            header = self._generated("OriginHeader", key="value", template={})
            waive(
                header,
                "AwsSolutions-SMG4",
                "rotated by adding a second accepted value, then redeploying the distribution",
            )
            self.origin_header = header.secret_value_from_json("value")
            self.by_name["origin"] = self._document("Origin", {"secrets": [self.origin_header.unsafe_unwrap()]})
            rotation["origin"] = "follows the header's secret; two values are valid during rotation"
        for name, reason in rotation.items():
            waive(self.by_name[name], "AwsSolutions-SMG4", reason)

    def arns(self) -> dict[str, str]:
        """Return the ARN of each secret by name.

        Taken from the attribute `Id`: `Ref` is the ARN in AWS, but the name in the embedded engine, where a grant on
        it grants nothing.
        """
        return {name: _attribute_id(secret) for name, secret in self.by_name.items()}

    def _generated(self, construct_id: str, *, key: str, template: dict[str, str]) -> secretsmanager.Secret:
        return secretsmanager.Secret(
            self,
            construct_id,
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template=json.dumps(template),
                generate_string_key=key,
                password_length=SIGNING_KEY_LENGTH,
                exclude_punctuation=True,
            ),
            removal_policy=self._removal,
        )

    def _document(self, construct_id: str, document: dict[str, object]) -> secretsmanager.Secret:
        # The text holds empty fields, a reference that CloudFormation resolves, or the local stage's throw-away values.
        return secretsmanager.Secret(
            self,
            construct_id,
            secret_string_value=SecretValue.unsafe_plain_text(json.dumps(document)),
            removal_policy=self._removal,
        )


def _attribute_id(secret: secretsmanager.Secret) -> str:
    resource = secret.node.default_child
    if not isinstance(resource, secretsmanager.CfnSecret):
        raise TypeError(f"{secret.node.path} is no secret of CloudFormation")
    return resource.attr_id

"""The sender of mails: a verified domain of SES, and the configuration set under which mail is sent."""

from aws_cdk import Stack
from aws_cdk import aws_ses as ses
from constructs import Construct

from infra.config import StageSettings


class MailSender(Construct):
    """The domain of the stage's sender address.

    The operator publishes its three DKIM records (`aws sesv2 get-email-identity`) and asks AWS once to take the account
    out of the sandbox; until then mail waits in the outbox and ends in the dead-letter queue's alarm. In a stage
    without SES there are only the names that both would have.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: StageSettings) -> None:
        super().__init__(scope, construct_id)
        domain = settings.mail_sender.rpartition("@")[2].rstrip(">")
        if not settings.mail_identities:
            self.configuration_set_name = settings.stack_prefix
            self.identity_arn = Stack.of(self).format_arn(service="ses", resource="identity", resource_name=domain)
            return
        rules = ses.ConfigurationSet(
            self,
            "Rules",
            reputation_metrics=True,
            suppression_reasons=ses.SuppressionReasons.BOUNCES_AND_COMPLAINTS,
            tls_policy=ses.ConfigurationSetTlsPolicy.REQUIRE,
        )
        identity = ses.EmailIdentity(self, "Domain", identity=ses.Identity.domain(domain), configuration_set=rules)
        self.configuration_set_name = rules.configuration_set_name
        self.identity_arn = identity.email_identity_arn

    @property
    def configuration_set_arn(self) -> str:
        """Return the ARN of the configuration set, for grants to send mail under it."""
        name = self.configuration_set_name
        return Stack.of(self).format_arn(service="ses", resource="configuration-set", resource_name=name)

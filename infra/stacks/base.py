"""Common parts of all stacks of a stage: name, tags, and a synthesizer that knows the bucket of archives."""

from aws_cdk import CfnOutput, DefaultStackSynthesizer, Stack, Tags
from constructs import Construct

from infra.config import StageSettings


class StageStack(Stack):
    """A stack named `karma-<stage>-<part>`, protected from deletion where data must survive."""

    def __init__(self, scope: Construct, part: str, *, settings: StageSettings) -> None:
        # A bucket named by the settings makes templates that need no bootstrap: the embedded engine has none.
        synthesizer = (
            DefaultStackSynthesizer(
                file_assets_bucket_name=settings.asset_bucket, generate_bootstrap_version_rule=False
            )
            if settings.asset_bucket
            else DefaultStackSynthesizer()
        )
        super().__init__(
            scope,
            f"{settings.stack_prefix}-{part}",
            synthesizer=synthesizer,
            termination_protection=settings.deletion_protection,
            description=f"Karma Cloud {settings.stage}: {part}",
        )
        Tags.of(self).add("app", "karma")
        Tags.of(self).add("stage", settings.stage.value)

    def output(self, name: str, value: str) -> None:
        """Publish a value under exactly this key, for operators, tests and the local environment."""
        CfnOutput(self, f"Output{name}", value=value).override_logical_id(name)

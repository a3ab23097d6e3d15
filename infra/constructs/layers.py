"""Lambda layers: pinned dependencies a function package, and our shared code."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.artifacts import Archive, Artifacts
from infra.config import StageSettings


class Layers(Construct):
    """Layer versions of a stage; replaced ones are deleted, published function versions keep their copy."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: StageSettings, artifacts: Artifacts) -> None:
        super().__init__(scope, construct_id)
        self._host_built = settings.host_layers
        self._dependencies = {
            package: self._layer(f"Deps{package.title().replace('_', '')}", archive, f"Dependencies of {package}")
            for package, archive in artifacts.dependencies.items()
        }
        self._common = self._layer("Common", artifacts.common, "Shared code: karma")

    def of(self, package: str) -> list[lambda_.ILayerVersion]:
        """Return the layers of a function package, the common one after the dependencies."""
        return [self._dependencies[package], self._common]

    def _layer(self, construct_id: str, archive: Archive, description: str) -> lambda_.LayerVersion:
        return lambda_.LayerVersion(
            self,
            construct_id,
            code=lambda_.Code.from_asset(str(archive.path), asset_hash=archive.digest),
            description=description,
            compatible_architectures=None if self._host_built else [lambda_.Architecture.ARM_64],
            removal_policy=RemovalPolicy.DESTROY,
        )

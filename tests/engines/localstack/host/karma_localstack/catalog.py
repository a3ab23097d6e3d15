"""Resource types that CloudFormation knows, from the installed package: LocalStack's own list is on its web site.

Without it a template with an unknown type waits for that site; with it the stack fails at once and names the type.
"""

from __future__ import annotations

from localstack.utils.catalog.catalog import CatalogPlugin
from localstack.utils.catalog.common import (
    AwsServicesSupportInLatest,
    CloudFormationResourcesSupportAtRuntime,
    CloudFormationResourcesSupportInLatest,
)


class InstalledCatalog(CatalogPlugin):
    """Catalog that replaces the one of the web site, under its name."""

    name = "aws-catalog-remote-state-with-license"

    def get_aws_service_status(self, service_name: str, operation_name: str | None = None) -> None:
        """Say nothing of services: LocalStack then answers as it would without a catalog."""

    def get_cloudformation_resource_status(
        self, resource_name: str, service_name: str, is_pro_resource: bool = False
    ) -> object:
        if resource_name in self._get_cfn_resources_available_at_runtime():
            return CloudFormationResourcesSupportAtRuntime.AVAILABLE
        if service_name in self._get_services_at_runtime():
            return CloudFormationResourcesSupportInLatest.NOT_SUPPORTED
        return AwsServicesSupportInLatest.NOT_SUPPORTED

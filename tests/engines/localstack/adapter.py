"""The only code that knows the quirks of LocalStack 4.14 community.

| quirk | what is done here |
| --- | --- |
| no HTTP APIs | functions are reached by their URLs (stage `localstack`) |
| a function URL is known by its host, and `<id>.lambda-url.<region>.localhost` does not resolve | the host is sent to |
| | the engine's own address; `local.front` puts it into every request |
| grants are not enforced | functions run as root |
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from local.stacks import Stacks
from local.upstream import Upstream


class LocalStackStacks(Stacks):
    """Deploys synthesized stacks to one LocalStack."""

    def stage_settings(self) -> dict[str, object]:
        """Return nothing: there are no broker and no WebSocket API."""
        return {}

    def api(self, outputs: Mapping[str, str]) -> Upstream:
        """Return where the API answers."""
        return self._by_host(outputs["ApiUrl"])

    def billing_webhook(self, outputs: Mapping[str, str]) -> Upstream:
        """Return where Stripe's webhooks are taken."""
        return self._by_host(outputs["BillingWebhookUrl"])

    def function_credentials(self, name: str) -> dict[str, str]:
        """Return those of root."""
        return {}

    def _by_host(self, url: str) -> Upstream:
        return Upstream(self._engine.endpoint_url, urlsplit(url).netloc)

"""Resources of the MQTT broker: device policy, IoT rules, their queues. In a stage without IoT only the queues."""

from constructs import Construct

from infra.config import StageSettings
from infra.constructs.fleet_provisioning import ClaimPolicy
from infra.constructs.iot_ingest import DevicePolicy, IotIngest
from infra.stacks.base import StageStack


class DevicesStack(StageStack):
    """IoT resources; account-wide by nature, which is why two stages never share an account."""

    def __init__(self, scope: Construct, *, settings: StageSettings) -> None:
        super().__init__(scope, "devices", settings=settings)
        # Without a broker the policy has a name, and no device to be attached to.
        self.policy_name = f"{settings.stack_prefix}-device"
        if settings.iot:
            self.policy_name = DevicePolicy(self, "Device", settings=settings).name
        self.claim_policy_name = f"{settings.stack_prefix}-claim"
        if settings.iot:
            self.claim_policy_name = ClaimPolicy(self, "Claim", settings=settings).name
        self.iot = IotIngest(self, "Iot", settings=settings)
        self.output("DevicePolicyName", self.policy_name)
        for name, rule in self.iot.rules.items():
            self.output(f"Rule{name.capitalize()}", rule)
        self.output("QueueUrlIngest", self.iot.ingest.queue.queue_url)
        self.output("QueueUrlIngestDlq", self.iot.ingest.dead_letters.queue.queue_url)
        self.output("QueueUrlAsks", self.iot.asks.queue.queue_url)
        self.output("QueueUrlAsksDlq", self.iot.asks.dead_letters.queue.queue_url)
        self.output("QueueUrlIngestErrors", self.iot.errors.queue.queue_url)

"""The stage of the second engine: the local stage without what that engine lacks, and nothing else left out."""

from collections import Counter

from infra.config import Stage
from tests.infra.synthesized import Stages, Synthesized

MISSING = ("AWS::ApiGatewayV2::", "AWS::IoT::", "AWS::SES::")


def test_only_what_the_engine_lacks_is_left_out(stages: Stages, local: Synthesized) -> None:
    def kinds(stage: Synthesized) -> Counter[str]:
        return Counter(item["Type"] for each in stage.templates.values() for item in each["Resources"].values())

    second = kinds(stages.of(Stage.LOCALSTACK))
    left_out = kinds(local) - second
    # The roles are those of the IoT rules and of fleet provisioning.
    assert {kind: n for kind, n in left_out.items() if not kind.startswith(MISSING)} == {"AWS::IAM::Role": 2}
    assert not [kind for kind in second if kind.startswith(MISSING)]


def test_every_function_is_there_with_what_it_asks_for(stages: Stages, local: Synthesized) -> None:
    second = stages.of(Stage.LOCALSTACK).functions()
    assert {name: item["Handler"] for name, item in second.items()} == {
        name: item["Handler"] for name, item in local.functions().items()
    }


def test_apis_are_urls_of_their_functions(stages: Stages) -> None:
    second = stages.of(Stage.LOCALSTACK)
    urls = second.of_type("AWS::Lambda::Url").values()
    modes = sorted(item["Properties"]["InvokeMode"] for item in urls)
    assert modes == ["BUFFERED", "BUFFERED", "RESPONSE_STREAM"]
    # The address of the webhook has the path that Stripe posts to, as everywhere.
    outputs = second.templates["app"]["Outputs"]
    assert {"ApiUrl", "BillingWebhookUrl", "StreamUrl"} <= set(outputs)
    assert not {"ApiId", "BillingWebhookApiId", "WebsocketApiId", "WebsocketUrl"} & set(outputs)

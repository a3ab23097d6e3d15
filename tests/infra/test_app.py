"""Functions, their releases, their addresses and what triggers them."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from infra.catalog import COMMON_ENVIRONMENT, FUNCTIONS, SWEEPS, FunctionName
from infra.config import Stage
from infra.constructs.edge import STREAM_PATHS
from karma.core import happenings
from karma.core.happenings import HappeningSource
from karma.runs.domain import ACTIVE, RunStatus
from karma.runs.happenings import RunHappenings
from tests.infra.synthesized import Json, Stages, Synthesized
from tests.support import contract
from tests.support.contract import ROOT


def logical_ids(synthesized: Synthesized) -> dict[str, FunctionName]:
    """Return the function of each logical id."""
    return {
        path.partition("/")[2]: FunctionName(service)
        for path, item in synthesized.of_type("AWS::Lambda::Function").items()
        if (service := item["Properties"]["Environment"]["Variables"].get("POWERTOOLS_SERVICE_NAME"))
    }


def aliases(synthesized: Synthesized) -> dict[str, FunctionName]:
    """Return the function of each alias."""
    functions = logical_ids(synthesized)
    return {
        path.partition("/")[2]: functions[item["Properties"]["FunctionName"]["Ref"]]
        for path, item in synthesized.of_type("AWS::Lambda::Alias").items()
    }


def only(synthesized: Synthesized, kind: str) -> Json:
    (found,) = synthesized.of_type(kind).values()
    properties: Json = found["Properties"]
    return properties


def test_functions_are_as_the_catalog_says(aws: Synthesized) -> None:
    functions = aws.functions()
    assert set(functions) == set(FunctionName)
    for name, properties in functions.items():
        spec = FUNCTIONS[name]
        assert properties["Runtime"] == "python3.13", name
        assert properties["Architectures"] == ["arm64"], name
        assert properties["Handler"] == spec.handler, name
        assert properties["Timeout"] == spec.timeout_s, name
        assert properties["TracingConfig"] == {"Mode": "Active"}, name
        assert properties["LoggingConfig"]["LogFormat"] == "JSON", name
        assert len(properties["Layers"]) == 2, name


def test_environment_is_what_the_function_asks_for(stages: Stages) -> None:
    for stage in Stage:
        for name, properties in stages.of(stage).functions().items():
            variables = set(properties["Environment"]["Variables"]) - {"AWS_LAMBDA_EXEC_WRAPPER", "KARMA_PYTHON"}
            assert variables == {*COMMON_ENVIRONMENT, *FUNCTIONS[name].environment}, (stage, name)


@pytest.mark.req("R-M-45")
def test_logs_are_sampled_in_aws(stages: Stages) -> None:
    for stage, rate in ((Stage.LOCAL, 0.0), (Stage.DEV, 0.01), (Stage.PROD, 0.01)):
        for name, properties in stages.of(stage).functions().items():
            variables = properties["Environment"]["Variables"]
            assert float(variables["POWERTOOLS_LOGGER_SAMPLE_RATE"]) == rate, (stage, name)
            assert variables["POWERTOOLS_LOG_LEVEL"] == "INFO", (stage, name)
            # A level above DEBUG would drop what was sampled.
            assert properties["LoggingConfig"]["ApplicationLogLevel"] == "DEBUG", (stage, name)


def test_no_secret_is_in_an_environment(stages: Stages) -> None:
    for stage in Stage:
        for name, properties in stages.of(stage).functions().items():
            for variable in properties["Environment"]["Variables"]:
                assert not variable.endswith(("_KEY", "_SECRET", "_TOKEN", "_PASSWORD")), (stage, name, variable)


def test_log_groups_expire(aws: Synthesized) -> None:
    groups = aws.of_type("AWS::Logs::LogGroup")
    for path, group in groups.items():
        assert group["Properties"]["RetentionInDays"] == aws.settings.log_retention_days, path
    used = {json.dumps(item["LoggingConfig"]["LogGroup"]) for item in aws.functions().values()}
    assert len(used) == len(FunctionName), "a log group a function"


def test_releases_go_by_canary_and_come_back_on_alarms(aws: Synthesized) -> None:
    found = aws.of_type("AWS::Lambda::Alias")
    assert {aliases(aws)[path.partition("/")[2]] for path in found} == set(FunctionName)
    groups = aws.of_type("AWS::CodeDeploy::DeploymentGroup")
    assert len(groups) == len(FunctionName)
    for path, alias in found.items():
        assert alias["Properties"]["Name"] == "live", path
        update = alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
        group = groups[f"app/{update['DeploymentGroupName']['Ref']}"]["Properties"]
        assert group["DeploymentConfigName"] == "CodeDeployDefault.LambdaCanary10Percent5Minutes", path
        assert group["AlarmConfiguration"]["Enabled"] is True, path
        assert group["AlarmConfiguration"]["Alarms"], path
        assert "DEPLOYMENT_STOP_ON_ALARM" in group["AutoRollbackConfiguration"]["Events"], path


def test_snapshots_start_the_functions_that_users_wait_for(aws: Synthesized) -> None:
    with_snapshots = {
        name for name, item in aws.functions().items() if item.get("SnapStart") == {"ApplyOn": "PublishedVersions"}
    }
    assert with_snapshots == {FunctionName.API, FunctionName.AGENT_STREAM}


def test_streams_have_concurrency_of_their_own(aws: Synthesized) -> None:
    reserved = {name: item.get("ReservedConcurrentExecutions") for name, item in aws.functions().items()}
    assert reserved.pop(FunctionName.AGENT_STREAM) == aws.settings.reserved_streams
    assert set(reserved.values()) == {None}


@pytest.mark.req("R-K-39")
def test_the_stream_url_streams_from_the_alias_and_trusts_nobody(aws: Synthesized) -> None:
    url = only(aws, "AWS::Lambda::Url")
    assert url["AuthType"] == "NONE"
    assert url["InvokeMode"] == "RESPONSE_STREAM"
    assert url["Qualifier"] == "live"
    assert url["Cors"]["AllowOrigins"] == list(aws.settings.cors_origins)
    variables = aws.functions()[FunctionName.AGENT_STREAM]["Environment"]["Variables"]
    assert variables["AWS_LAMBDA_EXEC_WRAPPER"] == "/var/task/agent_stream/bootstrap"
    assert "Fn::ImportValue" in variables["ORIGIN_SECRET_ARN"], "AuthType NONE is safe only with the origin's secret"
    assert "Fn::ImportValue" in aws.functions()[FunctionName.API]["Environment"]["Variables"]["ORIGIN_SECRET_ARN"]


def test_callers_reach_aliases_only(aws: Synthesized) -> None:
    """A canary that some caller bypasses is none."""
    by_alias = aliases(aws)
    called = []
    for permission in aws.of_type("AWS::Lambda::Permission").values():
        called.append(by_alias[permission["Properties"]["FunctionName"]["Ref"]])
    for mapping in aws.of_type("AWS::Lambda::EventSourceMapping").values():
        text = json.dumps(mapping["Properties"]["FunctionName"])
        (alias,) = [logical_id for logical_id in by_alias if f'"{logical_id}"' in text]
        called.append(by_alias[alias])
    assert set(called) == set(FunctionName)


@pytest.mark.req("R-K-01")
def test_the_apis_lead_to_their_functions(aws: Synthesized) -> None:
    apis = {item["Properties"]["Name"]: item["Properties"] for item in aws.of_type("AWS::ApiGatewayV2::Api").values()}
    prefix = aws.settings.stack_prefix
    assert {name: item["ProtocolType"] for name, item in apis.items()} == {
        f"{prefix}-api": "HTTP",
        f"{prefix}-billing-webhook": "HTTP",
        f"{prefix}-realtime": "WEBSOCKET",
    }
    routes = sorted(item["Properties"]["RouteKey"] for item in aws.of_type("AWS::ApiGatewayV2::Route").values())
    assert routes == ["$connect", "$default", "$default", "$disconnect", "POST /webhooks/stripe"]
    for stage in aws.of_type("AWS::ApiGatewayV2::Stage").values():
        assert stage["Properties"]["AutoDeploy"] is True
        assert stage["Properties"]["DefaultRouteSettings"]["ThrottlingRateLimit"] > 0
        assert "requestId" in stage["Properties"]["AccessLogSettings"]["Format"]


@pytest.mark.req("R-A-41")
def test_cors_names_its_origins(aws: Synthesized) -> None:
    configured = [
        item["Properties"]["CorsConfiguration"]
        for item in aws.of_type("AWS::ApiGatewayV2::Api").values()
        if "CorsConfiguration" in item["Properties"]
    ]
    (cors,) = configured
    assert cors["AllowOrigins"] == list(aws.settings.cors_origins)
    assert cors["AllowCredentials"] is True
    assert {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} == set(cors["AllowMethods"])
    assert {"authorization", "content-type", "idempotency-key", "if-match", "x-api-key"} <= set(cors["AllowHeaders"])
    assert "*" not in json.dumps(cors)


@pytest.mark.fault("F-24w")
def test_a_browser_may_read_each_header_of_answers(aws: Synthesized) -> None:
    """Those that the descriptions name, and those of every answer; of others a page reads what browsers always show."""
    told = {
        name.lower()
        for document in map(contract.committed, contract.DOCUMENTS)
        for headers in (
            document["components"].get("headers", {}),
            *(
                answer.get("headers", {})
                for operations in document["paths"].values()
                for operation in operations.values()
                for answer in operation["responses"].values()
            ),
        )
        for name in headers
    }
    (api,) = [
        item["Properties"]["CorsConfiguration"]["ExposeHeaders"]
        for item in aws.of_type("AWS::ApiGatewayV2::Api").values()
        if "CorsConfiguration" in item["Properties"]
    ]
    (url,) = [
        item["Properties"]["Cors"]["ExposeHeaders"]
        for item in aws.of_type("AWS::Lambda::Url").values()
        if "Cors" in item["Properties"]
    ]
    assert {"idempotent-replayed", "etag", "location", "retry-after"} <= told
    assert told - {"content-type", "cache-control"} - set(api) == set()
    assert set(api) == set(url)


def test_queue_consumers_answer_for_each_message(aws: Synthesized) -> None:
    mappings = [item["Properties"] for item in aws.of_type("AWS::Lambda::EventSourceMapping").values()]
    assert len(mappings) == 22
    assert all(item["FunctionResponseTypes"] == ["ReportBatchItemFailures"] for item in mappings)


def test_the_stream_mappings_survive_poison(aws: Synthesized) -> None:
    mappings = [
        item["Properties"]
        for item in aws.of_type("AWS::Lambda::EventSourceMapping").values()
        if "StartingPosition" in item["Properties"]
    ]
    assert all(mapping["BisectBatchOnFunctionError"] is True for mapping in mappings)
    assert all(mapping["MaximumRetryAttempts"] == 5 for mapping in mappings)
    failures = sorted(json.dumps(mapping["DestinationConfig"]["OnFailure"]) for mapping in mappings)
    names = ("Events", "IdentityRouter", "Metrics", "RouterFailures", "Samples", "WorkRouter")
    for name, failure in zip(names, failures, strict=True):
        assert name in failure


def filters_of(aws: Synthesized, stream: str) -> list[dict[str, Any]]:
    [found] = [
        item["Properties"]["FilterCriteria"]["Filters"]
        for path, item in aws.of_type("AWS::Lambda::EventSourceMapping").items()
        if stream in path
    ]
    return [json.loads(each["Pattern"]) for each in found]


def test_new_samples_alone_mark_hours(aws: Synthesized) -> None:
    stored = [{"eventName": ["INSERT"], "dynamodb": {"Keys": {"pk": {"S": [{"prefix": "DEV#"}]}}}}]
    assert filters_of(aws, "SamplesStream") == stored


def test_only_runs_that_begin_or_end_are_counted(aws: Synthesized) -> None:
    begins, ends = filters_of(aws, "MetricsStream")
    assert begins["eventName"] == ["INSERT"]
    assert {*ends["dynamodb"]["OldImage"]["status"]["S"]} == {status.value for status in ACTIVE}
    assert {*ends["dynamodb"]["NewImage"]["status"]["S"]} == {status.value for status in {*RunStatus} - ACTIVE}


@pytest.mark.parametrize(
    ("stream", "types"),
    [
        ("EventsStream", {"run", "thread", "avatar", "segment", "messages"}),
        ("WorkStream", {"task", "project", "project_member", "project_device"}),
        ("IdentityStream", {"user", "session", "api_key", "account_tombstone", "notice"}),
    ],
)
def test_a_router_is_given_what_its_consumers_know(aws: Synthesized, stream: str, types: set[str]) -> None:
    images = [image for each in filters_of(aws, stream) for image in each["dynamodb"].values()]
    assert {name for image in images for name in image["type"]["S"]} == types


def missing_for(aws: Synthesized, source: HappeningSource) -> list[str]:
    """Return what has to be done before a declared event reaches those who subscribed to it."""
    table = f"{source.table.capitalize()}Table"
    brought = {
        name: item["Properties"].get("FilterCriteria", {}).get("Filters")
        for item in aws.of_type("AWS::Lambda::EventSourceMapping").values()
        for name in FunctionName
        if re.search(rf"{table}\w*StreamArn", json.dumps(item["Properties"]["EventSourceArn"]))
        and "".join(part.capitalize() for part in re.split("[._]", name))
        in json.dumps(item["Properties"]["FunctionName"])
    }
    named = "|".join(map(re.escape, ("happenings.declared()", f"{type(source).__name__}()")))
    texts = {name: (ROOT / f"functions/{name.replace('.', '/')}.py").read_text() for name in brought}
    tellers = {
        name for name, text in texts.items() if "HappeningConsumer(" in text and any(each in text for each in named)
    }
    if not tellers:
        return [f"give a HappeningConsumer of it to the router of the table {source.table} ({', '.join(brought)})"]
    grants = json.loads((ROOT / "tests/infra/golden/grants.json").read_text())
    passed = [text for name in tellers for text in map(json.dumps, brought[name] or [source.items])]
    return [
        *(
            f"let items of type {each} through the filter of {table}'s stream, infra/stacks/app.py"
            for each in source.items
            if not any(each in re.findall(r"\w+", text) for text in passed)
        ),
        *(
            f"let {name} send to the queue of webhooks: webhooks_queue_url, and its grant"
            for name in tellers
            if "sqs:SendMessage" not in grants[name].get("data/WebhooksQueue.Arn", ())
        ),
    ]


@pytest.mark.fault("F-24y")
def test_each_event_that_may_be_subscribed_to_is_told(aws: Synthesized) -> None:
    wrong = {type(source).__name__: told for source in happenings.declared() if (told := missing_for(aws, source))}
    assert wrong == {}


@pytest.mark.fault("F-24y")
def test_an_event_that_no_stream_brings_is_named_with_what_to_do(aws: Synthesized) -> None:
    class Elsewhere(RunHappenings):
        table = "work"
        items: Sequence[str] = ("task",)

    class Filtered(RunHappenings):
        items: Sequence[str] = ("run", "run_share")

    assert "HappeningConsumer" in missing_for(aws, Elsewhere())[0]
    assert "background.work_router" in missing_for(aws, Elsewhere())[0]
    assert [text[:27] for text in missing_for(aws, Filtered())] == ["let items of type run_share"]


def test_sweeps_run_every_minute(aws: Synthesized) -> None:
    rules = [item["Properties"] for item in aws.of_type("AWS::Events::Rule").values()]
    assert {rule["ScheduleExpression"] for rule in rules} == {"rate(1 minute)"}
    inputs = [json.loads(target["Input"]) for rule in rules for target in rule["Targets"]]
    assert sorted(item["sweep"] for item in inputs) == sorted(SWEEPS)


@pytest.mark.req("R-K-47")
def test_cloudfront_puts_api_and_stream_under_one_host(aws: Synthesized) -> None:
    distribution = only(aws, "AWS::CloudFront::Distribution")["DistributionConfig"]
    origins = {item["Id"]: item for item in distribution["Origins"]}
    for origin in origins.values():
        (header,) = origin["OriginCustomHeaders"]
        assert header["HeaderName"] == "x-karma-origin"
        assert "resolve:secretsmanager" in json.dumps(header["HeaderValue"])
        assert origin["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only"
    behaviors = [distribution["DefaultCacheBehavior"], *distribution["CacheBehaviors"]]
    for behavior in behaviors:
        assert "Ref" in behavior["CachePolicyId"], "a policy of ours: test_edge.py"
        assert "Ref" in behavior["OriginRequestPolicyId"]
        assert behavior["ViewerProtocolPolicy"] == "redirect-to-https"
        assert behavior["Compress"] is False, "compression would hold back a stream"
        assert behavior["ResponseHeadersPolicyId"]
    by_path = {item["PathPattern"]: item["TargetOriginId"] for item in distribution["CacheBehaviors"]}
    api = distribution["DefaultCacheBehavior"]["TargetOriginId"]
    assert {path for path, origin in by_path.items() if origin != api} == set(STREAM_PATHS)
    assert {path for path, origin in by_path.items() if origin == api} == {"/docs/static/*"}


def test_security_headers_are_set_at_the_edge(aws: Synthesized) -> None:
    headers = only(aws, "AWS::CloudFront::ResponseHeadersPolicy")["ResponseHeadersPolicyConfig"][
        "SecurityHeadersConfig"
    ]
    assert headers["StrictTransportSecurity"]["AccessControlMaxAgeSec"] == 31536000
    assert headers["ContentTypeOptions"]["Override"] is True
    assert headers["FrameOptions"]["FrameOption"] == "DENY"


def test_alarms_watch_users_crashes_leftovers_and_facts(aws: Synthesized) -> None:
    ops = aws.of_type("AWS::CloudWatch::Alarm", "ops")
    watched = json.dumps([item["Properties"] for item in ops.values()])
    for metric in (
        "5xx",
        "Url5xxCount",
        "UnhandledError",
        "ApproximateNumberOfMessagesVisible",
        "IteratorAge",
        "IngestRejected",
        "WebhookRejected",
    ):
        assert f'"{metric}"' in watched, metric
    dead_letter_alarms = [path for path in ops if "Dlq" in path]
    assert len(dead_letter_alarms) == 23
    for path, item in ops.items():
        assert item["Properties"]["AlarmActions"], path
        if path in dead_letter_alarms:
            assert item["Properties"]["Threshold"] == 1, path
            assert item["Properties"]["ComparisonOperator"] == "GreaterThanOrEqualToThreshold", path
    assert len(aws.of_type("AWS::CloudWatch::Dashboard")) == 1


def test_outputs_are_the_published_names(aws: Synthesized) -> None:
    outputs = {key for template in aws.templates.values() for key in template["Outputs"]}
    assert {
        "ApiId",
        "ApiUrl",
        "BillingWebhookUrl",
        "BucketName",
        "DevicePolicyName",
        "PublicUrl",
        "QueueUrlIngest",
        "QueueUrlInbox",
        "QueueUrlRuns",
        "QueueUrlDeletions",
        "QueueUrlFiles",
        "MetricsMappingId",
        "RouterMappingId",
        "RuleData",
        "SecretAuthArn",
        "StreamUrl",
        "TableDevices",
        "WebsocketUrl",
    } | {f"Function{name.label}" for name in FunctionName} <= outputs

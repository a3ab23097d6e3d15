"""The local stage holds only what the embedded engine takes, and differs by typed settings alone."""

import json
from pathlib import Path

import pytest

from infra.catalog import SWEEPS, FunctionName
from infra.config import Overrides, SettingsError, Stage, stage_settings
from local.adapter import scheduled_functions
from tests.infra.synthesized import Synthesized

UNSUPPORTED = (
    "AWS::ApiGatewayV2::RouteResponse",
    "AWS::CodeDeploy",
    "AWS::CloudFront",
    "AWS::SNS",
    "AWS::CloudFormation::CustomResource",
    "Custom::",
    "AWS::SQS::QueueInlinePolicy",
    "AWS::CloudWatch",
)


def test_nothing_that_the_engine_refuses(local: Synthesized) -> None:
    types = {item["Type"] for template in local.templates.values() for item in template["Resources"].values()}
    assert [kind for kind in types if kind.startswith(UNSUPPORTED)] == []
    assert set(local.templates) == {"data", "devices", "app"}
    assert all("Parameters" not in template for template in local.templates.values())


@pytest.mark.req("R-C-32", "R-A-45")
def test_development_runs_what_production_runs(local: Synthesized, prod: Synthesized) -> None:
    """The same handlers behind the same routes; nowhere a server that somebody has to keep up."""
    for stage in (local, prod):
        types = {item["Type"] for template in stage.templates.values() for item in template["Resources"].values()}
        assert not [kind for kind in types if kind.startswith(("AWS::EC2", "AWS::ECS", "AWS::AutoScaling"))]
        assert {"AWS::Lambda::Function", "AWS::ApiGatewayV2::Api", "AWS::Lambda::Url"} <= types
    developed, released = (
        [
            {name: item["Handler"] for name, item in stage.functions().items()},
            sorted(item["Properties"]["RouteKey"] for item in stage.of_type("AWS::ApiGatewayV2::Route").values()),
        ]
        for stage in (local, prod)
    )
    assert developed == released


def test_archives_lie_in_a_bucket_known_beforehand(local: Synthesized) -> None:
    for path in local.folder.glob("*.assets.json"):
        for asset in json.loads(path.read_text(encoding="utf-8"))["files"].values():
            assert asset["source"]["packaging"] == "file"
            assert (local.folder / asset["source"]["path"]).is_file()
            assert {item["bucketName"] for item in asset["destinations"].values()} == {"karma-local-assets"}
    for properties in local.functions().values():
        assert properties["Code"]["S3Bucket"] == "karma-local-assets"


def test_the_stream_function_starts_by_a_root_bootstrap(local: Synthesized) -> None:
    stream = local.functions()[FunctionName.AGENT_STREAM]
    assert stream["Runtime"] == "provided.al2023"
    assert "AWS_LAMBDA_EXEC_WRAPPER" not in stream["Environment"]["Variables"]
    assert stream["Environment"]["Variables"]["ORIGIN_SECRET_ARN"] == ""
    assert "Layers" not in stream, "the engine mounts none for provided runtimes: they are in the archive"


@pytest.mark.fault("F-23a")
def test_each_sweep_has_one_instance(local: Synthesized) -> None:
    schedules = scheduled_functions(local.templates["app"])
    assert sum(schedules.values()) == len(local.of_type("AWS::Events::Rule", "app"))
    found = {
        local.templates["app"]["Resources"][name]["Properties"]["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
        for name in schedules
    }
    assert found == set(SWEEPS.values())


def test_api_ids_are_fixed(local: Synthesized) -> None:
    tags = [item["Properties"]["Tags"]["ms-custom-id"] for item in local.of_type("AWS::ApiGatewayV2::Api").values()]
    assert sorted(tags) == ["4b617262", "4b61726d", "4b617277"]


def test_deployed_stages_know_nothing_of_the_engine(aws: Synthesized) -> None:
    assert "ms-custom-id" not in json.dumps(aws.templates)


def test_a_settings_file_is_laid_over_the_stage(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"mqtt_host": "localhost", "mqtt_port": 18883, "stripe_webhook_secrets": ["whsec_x"]}))
    settings = stage_settings(Stage.LOCAL, Overrides.load(file))
    assert (settings.overrides.mqtt_host, settings.overrides.mqtt_port) == ("localhost", 18883)
    assert settings.overrides.stripe_webhook_secrets == ("whsec_x",)
    assert Overrides.load(None) == Overrides()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"mqtt_hots": "localhost"}',
        '{"mqtt_port": "8883"}',
        '{"mqtt_port": true}',
        '{"cors_origins": "x"}',
        '{"cors_origins": [1]}',
    ],
)
def test_a_settings_file_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"settings\.json"):
        Overrides.load(file)


def test_a_missing_settings_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        Overrides.load(tmp_path / "none.json")


def test_a_domain_comes_with_its_certificate() -> None:
    with pytest.raises(SettingsError, match="together"):
        stage_settings(Stage.DEV, Overrides(public_domain="api.example.com"))

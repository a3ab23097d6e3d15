"""A new version is tried before traffic moves to it: by whom, with which rights, and what is reported."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Literal

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from infra.catalog import FunctionName
from infra.constructs.release import HOOK_PREFIX, check_of
from infra.hooks import release_check
from tests.infra.synthesized import Json, Synthesized
from tests.infra.test_app import aliases

VERSION = "arn:aws:lambda:us-east-1:000000000000:function:api:7"
SERVICES: tuple[Literal["lambda"], Literal["codedeploy"]] = ("lambda", "codedeploy")
ASKED = {"DeploymentId": "d-ABC123", "LifecycleEventHookExecutionId": "execution-1"}


def hooks(synthesized: Synthesized) -> dict[FunctionName, Json]:
    """Check of each function, found by the alias whose release it guards."""
    functions = {path.partition("/")[2]: item for path, item in synthesized.of_type("AWS::Lambda::Function").items()}
    by_alias = aliases(synthesized)
    return {
        by_alias[path.partition("/")[2]]: functions[
            alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["BeforeAllowTrafficHook"]["Ref"]
        ]["Properties"]
        for path, alias in synthesized.of_type("AWS::Lambda::Alias").items()
    }


class TestTheStacks:
    def test_every_released_function_is_tried_at_its_new_version(self, aws: Synthesized) -> None:
        found = hooks(aws)
        assert set(found) == set(FunctionName)
        versions = {
            item["Properties"]["FunctionVersion"]["Fn::GetAtt"][0]: aliases(aws)[path.partition("/")[2]]
            for path, item in aws.of_type("AWS::Lambda::Alias").items()
        }
        for name, hook in found.items():
            variables = hook["Environment"]["Variables"]
            assert versions[variables["VERSION_ARN"]["Ref"]] == name
            assert json.loads(variables["EVENT"]) == check_of(name).event
            assert hook["FunctionName"].startswith(HOOK_PREFIX), "CodeDeploy's role may call no other"
            assert len(hook["FunctionName"]) <= 64
            assert len(hook["Code"]["ZipFile"].encode()) <= 4096

    def test_a_check_may_call_one_version_and_report_to_one_group(self, aws: Synthesized) -> None:
        for name, hook in hooks(aws).items():
            role = aws.templates["app"]["Resources"][hook["Role"]["Fn::GetAtt"][0]]["Properties"]
            (policy,) = role["Policies"]
            allowed = {
                statement["Action"]: json.dumps(statement["Resource"])
                for statement in policy["PolicyDocument"]["Statement"]
            }
            assert set(allowed) == {
                "codedeploy:PutLifecycleEventHookExecutionStatus",
                "lambda:InvokeFunction",
                "logs:CreateLogStream",
                "logs:PutLogEvents",
            }
            assert allowed["lambda:InvokeFunction"] == json.dumps(hook["Environment"]["Variables"]["VERSION_ARN"])
            assert f'"{group_of(aws, name)}"' in allowed["codedeploy:PutLifecycleEventHookExecutionStatus"]
            assert "ManagedPolicyArns" not in role


def group_of(synthesized: Synthesized, name: FunctionName) -> str:
    (found,) = (
        alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["DeploymentGroupName"]["Ref"]
        for path, alias in synthesized.of_type("AWS::Lambda::Alias").items()
        if aliases(synthesized)[path.partition("/")[2]] == name
    )
    return str(found)


class TestTheCheck:
    @pytest.fixture
    def stubs(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Stubber]]:
        made = {
            service: boto3.client(
                service,
                region_name="us-east-1",
                aws_access_key_id="000000000000",
                aws_secret_access_key="test",
            )
            for service in SERVICES
        }
        stubbed: dict[str, Stubber] = {service: Stubber(client) for service, client in made.items()}
        monkeypatch.setattr("infra.hooks.release_check.boto3.client", lambda service, **_: made[service])
        monkeypatch.setenv("VERSION_ARN", VERSION)
        monkeypatch.setenv("EVENT", '{"Records": []}')
        monkeypatch.setenv("EXPECTED", '{"batchItemFailures": [[]]}')
        for stub in stubbed.values():
            stub.activate()
        yield stubbed
        for stub in stubbed.values():
            stub.assert_no_pending_responses()
        for client in made.values():
            client.close()

    @pytest.fixture
    def reports(self, stubs: dict[str, Stubber]) -> Callable[[str], None]:
        """Return a function that lets CodeDeploy expect one report, of the given status."""

        def expect(status: str) -> None:
            told = {
                "deploymentId": ASKED["DeploymentId"],
                "lifecycleEventHookExecutionId": ASKED["LifecycleEventHookExecutionId"],
                "status": status,
            }
            answer = {"lifecycleEventHookExecutionId": ASKED["LifecycleEventHookExecutionId"]}
            stubs["codedeploy"].add_response("put_lifecycle_event_hook_execution_status", answer, told)

        return expect

    @pytest.mark.parametrize(
        ("body", "more", "status"),
        [
            (b'{"batchItemFailures": []}', {}, "Succeeded"),
            (b'{"batchItemFailures": []}\0\0\0\0\0\0\0\0data: {}', {}, "Succeeded"),
            (b'{"batchItemFailures": [{"itemIdentifier": "1"}]}', {}, "Failed"),
            (b'{"statusCode": 500}', {}, "Failed"),
            (b"[]", {}, "Failed"),
            (b"\xff", {}, "Failed"),
            (b"", {}, "Failed"),
            (b'{"batchItemFailures": []}', {"FunctionError": "Unhandled"}, "Failed"),
        ],
    )
    def test_what_the_version_answers_decides(
        self, stubs: dict[str, Stubber], reports: Callable[[str], None], body: bytes, more: dict[str, str], status: str
    ) -> None:
        answer = {"StatusCode": 200, "Payload": StreamingBody(io.BytesIO(body), len(body)), **more}
        stubs["lambda"].add_response("invoke", answer, {"FunctionName": VERSION, "Payload": b'{"Records": []}'})
        reports(status)
        assert release_check.lambda_handler(ASKED, None) == {"status": status}

    def test_a_version_that_cannot_be_called_has_failed(
        self, stubs: dict[str, Stubber], reports: Callable[[str], None]
    ) -> None:
        stubs["lambda"].add_client_error("invoke", "SnapStartNotReadyException")
        reports("Failed")
        assert release_check.lambda_handler(ASKED, None) == {"status": "Failed"}

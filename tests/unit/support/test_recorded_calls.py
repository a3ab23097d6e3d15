"""Recording of functions' calls: the calls, the IAM actions that they need, and when a test or a run fails for them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from infra.catalog import FUNCTIONS, FunctionName
from tests.support.recorded_calls import recorder as recording
from tests.support.recorded_calls.needs import ANY, Need, Told, Unmapped, needs_of
from tests.support.recorded_calls.plugin import CallsPlugin, not_in, read_golden, written
from tests.support.recorded_calls.recorder import Recorder

ID = "0198c0de-0000-7000-8000-000000000000"
TOLD = {
    FunctionName.API: {
        "IDENTITY_TABLE": "t-identity",
        "DEVICES_TABLE": "t-devices",
        "INBOX_QUEUE_URL": "https://sqs/inbox",
        "FILES_BUCKET": "files-1",
        "AUTH_SECRET_ARN": "arn:secret:auth",
        "BILLING_TABLE": "",
    },
    FunctionName.MAIL: {"MAIL_SENDER": "Karma <a@example.com>", "MAIL_CONFIGURATION_SET": "rules"},
}


def asked(service: str, operation: str, *, function: FunctionName = FunctionName.API, **params: Any) -> list[Need]:
    return needs_of(Told(function, TOLD[function]), service, operation, params)


class TestNeeds:
    def test_a_transaction_asks_for_each_of_its_parts(self) -> None:
        items = [
            {"Put": {"TableName": "t-identity", "Item": {}}},
            {"Update": {"TableName": "t-devices"}},
            {"Delete": {"TableName": "t-devices"}},
            {"ConditionCheck": {"TableName": "t-identity"}},
        ]
        assert asked("dynamodb", "TransactWriteItems", TransactItems=items) == [
            Need("dynamodb:PutItem", "table/identity"),
            Need("dynamodb:UpdateItem", "table/devices"),
            Need("dynamodb:DeleteItem", "table/devices"),
            Need("dynamodb:ConditionCheckItem", "table/identity"),
        ]

    def test_batches_are_actions_of_their_own_on_each_table(self) -> None:
        items: dict[str, object] = {"t-identity": {}, "t-devices": {}}
        for operation in ("BatchGetItem", "BatchWriteItem"):
            assert asked("dynamodb", operation, RequestItems=items) == [
                Need(f"dynamodb:{operation}", "table/identity"),
                Need(f"dynamodb:{operation}", "table/devices"),
            ]

    def test_a_query_of_an_index_asks_for_the_index(self) -> None:
        assert asked("dynamodb", "Query", TableName="t-devices") == [Need("dynamodb:Query", "table/devices")]
        by_index = asked("dynamodb", "Query", TableName="t-devices", IndexName="gsi1")
        assert by_index == [Need("dynamodb:Query", "index/devices/gsi1")]

    def test_a_version_of_an_object_is_another_action(self) -> None:
        key = f"devices/{ID}/{ID}"
        named, hidden = {"Key": key, "VersionId": "1"}, {"Key": key}
        needs = [
            Need(f"s3:{name}", "object/files/devices/{id}/{id}") for name in ("DeleteObject", "DeleteObjectVersion")
        ]
        assert asked("s3", "DeleteObjects", Bucket="files-1", Delete={"Objects": [named]}) == needs
        assert asked("s3", "DeleteObjects", Bucket="files-1", Delete={"Objects": [hidden]}) == needs[:1]

    def test_a_missing_object_asks_for_the_right_to_list(self) -> None:
        key: Any = {"Bucket": "files-1", "Key": f"devices/{ID}/{ID}"}
        assert asked("s3", "HeadObject", **key) == [Need("s3:GetObject", "object/files/devices/{id}/{id}")]
        assert asked("s3", "HeadObject:404", **key) == [Need("s3:ListBucket", "bucket/files")]
        assert asked("iot", "DeleteThing:404", thingName="EOS-1") == []

    def test_mail_asks_for_the_sender_and_for_the_rules(self) -> None:
        sent = {"FromEmailAddress": "Karma <a@example.com>", "ConfigurationSetName": "rules"}
        assert asked("sesv2", "SendEmail", function=FunctionName.MAIL, **sent) == [
            Need("ses:SendEmail", "ses/sender"),
            Need("ses:SendEmail", "ses/configuration"),
        ]

    def test_calls_of_the_other_services_need_the_actions_of_their_resources(self) -> None:
        cert = "arn:aws:iot:us-east-1:1:cert/abc"
        assert asked("sqs", "SendMessageBatch", QueueUrl="https://sqs/inbox") == [
            Need("sqs:SendMessage", "queue/inbox")
        ]
        assert asked("secretsmanager", "GetSecretValue", SecretId="arn:secret:auth") == [
            Need("secretsmanager:GetSecretValue", "secret/auth")
        ]
        assert asked("iot", "AttachPolicy", policyName="p", target=cert) == [Need("iot:AttachPolicy", "cert/{cert}")]
        assert asked("iot", "DescribeEndpoint") == [Need("iot:DescribeEndpoint", ANY)]
        assert asked("iot-data", "Publish", topic="cmd/karma/EOS-1/request") == [
            Need("iot:Publish", "topic/cmd/karma/{thing}/request")
        ]

    def test_a_call_or_a_resource_that_nobody_knows_is_said(self) -> None:
        with pytest.raises(Unmapped, match=r"dynamodb\.CreateTable"):
            asked("dynamodb", "CreateTable", TableName="t-identity")
        with pytest.raises(Unmapped, match="api is told of no resource 'other' by a variable \\*_TABLE"):
            asked("dynamodb", "GetItem", TableName="other")
        with pytest.raises(Unmapped, match="is no certificate"):
            asked("iot", "AttachPolicy", policyName="p", target="arn:aws:iot:us-east-1:1:thinggroup/all")
        with pytest.raises(Unmapped, match="by the variable MAIL_SENDER"):
            asked("sesv2", "SendEmail", FromEmailAddress="Karma <a@example.com>")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("IDENTITY_TABLE", "t-identity")
    return Recorder()


def call(heard: Recorder, table: str = "t-identity") -> None:
    """Make a call as botocore tells the recorder of it."""
    model = SimpleNamespace(service_model=SimpleNamespace(service_name="dynamodb"), name="GetItem")
    heard.before(params={"TableName": table}, model=model, context={})


class TestRecorder:
    def test_every_entry_is_known(self) -> None:
        assert {function for _, function in recording.ENTRIES.values()} == set(FUNCTIONS)

    def test_only_what_an_entry_does_is_recorded(self, heard: Recorder) -> None:
        call(heard)
        assert heard.calls == {}
        recording._at_handler(lambda _event, _context: call(heard), FunctionName.API)({}, None)
        call(heard, "seeded by the test")
        assert heard.calls == {FunctionName.API: {Need("dynamodb:GetItem", "table/identity")}}
        assert heard.unmapped == set()

    def test_threads_work_for_the_function_that_started_them(self, heard: Recorder) -> None:
        recording.install()

        def in_threads(_event: object, _context: object) -> None:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(call, heard).result()
            thread = Thread(target=call, args=(heard,))
            thread.start()
            thread.join()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(call, heard).result()
        assert heard.calls == {}
        recording._at_handler(in_threads, FunctionName.API)({}, None)
        assert heard.calls == {FunctionName.API: {Need("dynamodb:GetItem", "table/identity")}}

    def test_what_another_process_heard_is_taken_in(self, heard: Recorder) -> None:
        recording._at_handler(lambda _event, _context: call(heard), FunctionName.API)({}, None)
        other = Recorder()
        other.merge(heard.told())
        assert other.calls == heard.calls
        assert other.take_fresh() == {(FunctionName.API, Need("dynamodb:GetItem", "table/identity"))}
        assert other.take_fresh() == set()


GET, PUT = Need("dynamodb:GetItem", "table/identity"), Need("dynamodb:PutItem", "table/identity")


def plugin(heard: Recorder, golden: dict[FunctionName, set[Need]], tmp_path: Path) -> CallsPlugin:
    return CallsPlugin(heard, golden, tmp_path / "actual.json")


def told(*needs: Need) -> dict[str, Any]:
    return {"calls": {"api": [list(need) for need in needs]}, "unmapped": []}


class TestPlugin:
    def test_a_test_fails_in_which_a_function_does_what_is_new(self, tmp_path: Path) -> None:
        heard = Recorder()
        watched = plugin(heard, {FunctionName.API: {GET}}, tmp_path)
        heard.merge(told(GET))
        watched.check()
        heard.merge(told(GET, PUT))
        with pytest.raises(pytest.fail.Exception, match="api: dynamodb:PutItem on table/identity"):
            watched.check()

    def test_a_test_fails_in_which_a_call_cannot_be_read(self, tmp_path: Path) -> None:
        heard = Recorder()
        heard.unmapped.add("api: dynamodb.CreateTable: ...")
        with pytest.raises(pytest.fail.Exception, match="CreateTable"):
            plugin(heard, {}, tmp_path).check()

    def test_a_whole_run_fails_that_did_not_see_what_is_written_down(self, tmp_path: Path) -> None:
        heard = Recorder()
        heard.merge(told(GET))
        watched = plugin(heard, {FunctionName.API: {GET, PUT}}, tmp_path)
        watched._collected = {"tests/integration/test_a.py::test"}
        assert watched._compare() == [], "the test is not over: this was part of a run"
        assert PUT.action in (tmp_path / "actual.json").read_text()
        watched._over = {"tests/integration/test_a.py::test": "passed"}
        assert watched._compare() == ["api: dynamodb:PutItem on table/identity"]
        assert PUT.action not in (tmp_path / "actual.json").read_text()

    def test_what_is_written_is_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = {FunctionName.API: {GET, PUT}}
        (tmp_path / "calls.json").write_text(written(calls))
        monkeypatch.setattr("tests.support.recorded_calls.plugin.GOLDEN", tmp_path / "calls.json")
        assert read_golden() == calls
        assert not_in(calls, {}) == [
            "api: dynamodb:GetItem on table/identity",
            "api: dynamodb:PutItem on table/identity",
        ]

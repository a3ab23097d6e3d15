"""The engine as a process: what it keeps, and what the adapter does to it."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local import ports
from local.adapter import Adapter, move_state
from local.engine import MiniStack
from local.places import Places
from local.processes import Processes
from local.waiting import Pace, until

TABLE = {
    "Type": "AWS::DynamoDB::Table",
    "Properties": {
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "TimeToLiveSpecification": {"AttributeName": "expires_at", "Enabled": True},
    },
}
CORS = {"AllowOrigins": ["http://localhost:3000"], "AllowMethods": ["GET"]}
API = {
    "Type": "AWS::ApiGatewayV2::Api",
    "Properties": {"Name": "a", "ProtocolType": "HTTP", "CorsConfiguration": CORS},
}
QUEUE = {"Type": "AWS::SQS::Queue", "Properties": {}}
TEMPLATE = {
    "Resources": {"Table": TABLE, "Api": API, "Queue": QUEUE},
    "Outputs": {"TableName": {"Value": {"Ref": "Table"}}, "Queue": {"Value": {"Ref": "Queue"}}},
}


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[MiniStack]:
    """Start an engine of this test's own, whose state is kept."""
    places = Places(base=tmp_path / "local", root=Places(base=tmp_path).root)
    places.make()
    chosen = ports.choose(None)
    engine = MiniStack(places, chosen["engine"], chosen["mqtt"], persistent=True)
    processes = Processes(places)
    move_state(engine)
    engine.start(processes)
    engine.wait_ready(processes)
    yield engine
    engine.stop(processes)


@pytest.fixture
def assembly(tmp_path: Path) -> Path:
    folder = tmp_path / "cdk"
    folder.mkdir()
    stack = {"type": "aws:cloudformation:stack", "properties": {"templateFile": "one.template.json"}}
    (folder / "manifest.json").write_text(json.dumps({"artifacts": {"one": stack}}))
    (folder / "one.template.json").write_text(json.dumps(TEMPLATE))
    return folder


class TestDeployment:
    def test_what_the_engine_drops_from_templates_is_there(self, own_engine: MiniStack, assembly: Path) -> None:
        adapter = Adapter(own_engine)
        outputs = adapter.deploy(assembly, lambda _: None)
        described = adapter.client("dynamodb").describe_time_to_live(TableName=outputs["TableName"])
        assert described["TimeToLiveDescription"]["TimeToLiveStatus"] == "ENABLED"
        (api,) = adapter.client("apigatewayv2").get_apis()["Items"]
        assert api["CorsConfiguration"]["AllowOrigins"] == ["http://localhost:3000"]
        adapter.close()

    def test_a_second_deployment_does_only_what_changed(self, own_engine: MiniStack, assembly: Path) -> None:
        adapter = Adapter(own_engine)
        first = adapter.deploy(assembly, lambda _: None)
        said: list[str] = []
        assert adapter.deploy(assembly, said.append) == first
        assert said == ["one: unchanged"]
        template = json.loads((assembly / "one.template.json").read_text())
        template["Resources"]["Second"] = QUEUE
        (assembly / "one.template.json").write_text(json.dumps(template))
        assert adapter.deploy(assembly, said.append) == first
        assert said[1].startswith("one: 4 resources")
        adapter.close()


def test_data_outlive_a_restart_on_another_port(own_engine: MiniStack, assembly: Path) -> None:
    adapter = Adapter(own_engine)
    outputs = adapter.deploy(assembly, lambda _: None)
    adapter.client("dynamodb").put_item(TableName=outputs["TableName"], Item={"pk": {"S": "kept"}})
    adapter.client("sqs").send_message(QueueUrl=outputs["Queue"], MessageBody="kept")
    adapter.close()
    processes = Processes(own_engine.places)
    own_engine.stop(processes)

    chosen = ports.choose(None)
    moved = MiniStack(own_engine.places, chosen["engine"], chosen["mqtt"], persistent=True)
    move_state(moved)
    moved.start(processes)
    moved.wait_ready(processes)

    adapter = Adapter(moved)
    said: list[str] = []
    again = adapter.deploy(assembly, said.append)
    assert said == ["one: unchanged"]
    assert adapter.client("dynamodb").get_item(TableName=again["TableName"], Key={"pk": {"S": "kept"}})["Item"]
    assert again["Queue"].startswith(moved.endpoint_url)
    (message,) = adapter.client("sqs").receive_message(QueueUrl=again["Queue"])["Messages"]
    assert message["Body"] == "kept"
    adapter.close()


@pytest.mark.fault("F-23a")
def test_one_that_answers_slowly_is_waited_for(
    own_engine: MiniStack,
) -> None:
    processes = Processes(own_engine.places)
    (program,) = psutil.Process(processes.running()["engine"]).children()
    program.suspend()
    resume = threading.Timer(3.0, program.resume)
    resume.start()
    try:
        own_engine.wait_ready(processes, deadline_s=0.2)
    finally:
        resume.join()
        program.resume()
    assert own_engine.healthy()


@pytest.mark.fault("F-23a")
def test_a_deadline_is_as_long_as_the_machine_is_slow() -> None:
    said: list[str] = []
    began = time.monotonic()

    def busy() -> bool:
        time.sleep(0.3)
        return time.monotonic() - began > 1.0

    assert until(busy, deadline_s=0.5, what="the engine", pause_s=0.01, pace=Pace(busy, said.append))
    assert said
    assert all(text.startswith("waiting for the engine, up to ") for text in said)
    with pytest.raises(TimeoutError, match=r"nothing after 0\.2 s"):
        until(lambda: False, deadline_s=0.2, what="nobody", pace=Pace(lambda: None, said.append))

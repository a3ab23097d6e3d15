"""Effects of the adapter on files; its effects on the engine are tested on one."""

import json
from pathlib import Path

import pytest

from local.adapter import move_state
from local.engine import MiniStack
from local.places import Places
from local.stacks import read_assembly


@pytest.fixture
def engine(tmp_path: Path) -> MiniStack:
    places = Places(base=tmp_path / "local", root=tmp_path)
    places.make()
    return MiniStack(places, port=4566, mqtt_port=8883, persistent=True)


def test_stacks_come_after_those_they_need(tmp_path: Path) -> None:
    stack = "aws:cdk:cloudformation:stack".replace("cdk:", "")
    artifacts = {
        "app": {"type": stack, "properties": {"templateFile": "app.json"}, "dependencies": ["data", "app.assets"]},
        "app.assets": {"type": "cdk:asset-manifest"},
        "data": {"type": stack, "properties": {"templateFile": "data.json"}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"artifacts": artifacts}))
    for name in ("app", "data"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"Resources": {name: {}}}))
    listed = {
        "a1": {"source": {"path": "code.zip"}, "destinations": {"d": {"bucketName": "b", "objectKey": "a1.zip"}}},
        "t1": {"source": {"path": "app.template.json"}, "destinations": {"d": {"bucketName": "b", "objectKey": "t"}}},
    }
    (tmp_path / "app.assets.json").write_text(json.dumps({"files": listed}))
    data, app = read_assembly(tmp_path)
    assert (data.name, app.name) == ("data", "app")
    assert app.assets == [(tmp_path / "code.zip", "b", "a1.zip")]
    assert data.digest != app.digest


class TestMoveState:
    def test_the_saved_state_follows_the_port(self, engine: MiniStack) -> None:
        saved = engine.places.state / "engine" / "sqs.json"
        saved.parent.mkdir()
        saved.write_text('{"http://localhost:1234/q": "http://127.0.0.1:1234/x", "other": "localhost:12345"}')
        (engine.places.state / "engine-port").write_text("1234")
        move_state(engine)
        assert saved.read_text() == '{"http://localhost:4566/q": "http://127.0.0.1:4566/x", "other": "localhost:12345"}'
        assert (engine.places.state / "engine-port").read_text() == "4566"

    def test_the_first_start_only_notes_the_port(self, engine: MiniStack) -> None:
        move_state(engine)
        assert (engine.places.state / "engine-port").read_text() == "4566"

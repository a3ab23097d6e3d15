"""Asks of devices for their files: docs/mqtt.schema.json, the page and the reader say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from karma.core.errors import AppError, ValidationFailed
from karma.core.ids import new_id
from karma.devices.payloads import Unreadable
from karma.devices.topics import asking_thing, file_answer_topic, read_topic
from karma.files.by_device.asks import MAX_LISTED, cursor_of, read_ask, read_members
from tests.unit.devices.test_mqtt_schema import DOCS, accepts, examples

FILE = new_id()
UPLOAD = {"op": "upload", "name": "run.log", "size": 5, "sha256": "a" * 64}


def is_taken(body: dict[str, Any]) -> bool:
    try:
        read = read_members(json.dumps(body).encode())
        read_ask(read.id, read.members)
    except AppError:
        return False
    return True


@pytest.mark.parametrize(
    ("body", "good"),
    [
        pytest.param(UPLOAD, True, id="an upload"),
        pytest.param({**UPLOAD, "path": None, "type": None, "metadata": None}, True, id="null for left out"),
        pytest.param(
            {**UPLOAD, "path": "/logs", "type": "log", "category": "a.b-c", "metadata": {"a": 1}}, True, id="all"
        ),
        pytest.param({**UPLOAD, "more": 1}, True, id="more members"),
        pytest.param({**UPLOAD, "size": 5 * 1024**3}, True, id="5 GiB"),
        pytest.param({**UPLOAD, "size": 5 * 1024**3 + 1}, False, id="more than 5 GiB"),
        pytest.param({**UPLOAD, "size": 1.5}, False, id="half a byte"),
        pytest.param({**UPLOAD, "size": True}, False, id="true bytes"),
        pytest.param({**UPLOAD, "sha256": "A" * 64}, True, id="a hash in capitals"),
        pytest.param({**UPLOAD, "sha256": "a" * 63}, False, id="a short hash"),
        pytest.param({**UPLOAD, "category": "a\n"}, False, id="a category with a line break"),
        pytest.param({**UPLOAD, "category": "a" * 51}, False, id="a long category"),
        pytest.param({**UPLOAD, "metadata": []}, False, id="a list as metadata"),
        pytest.param({**UPLOAD, "name": ""}, False, id="no name"),
        pytest.param({name: UPLOAD[name] for name in ("op", "name", "size")}, False, id="no hash"),
        pytest.param({"op": "parts", "file_id": FILE}, True, id="parts"),
        pytest.param({"op": "parts", "file_id": FILE, "limit": 20}, True, id="20 parts"),
        pytest.param({"op": "parts", "file_id": FILE, "limit": 21}, False, id="21 parts"),
        pytest.param({"op": "complete", "file_id": FILE}, True, id="complete"),
        pytest.param({"op": "complete"}, False, id="complete without a file"),
        pytest.param({"op": "show", "file_id": 5}, False, id="a number as a file"),
        pytest.param({"op": "download", "file_id": FILE}, True, id="download by id"),
        pytest.param({"op": "download", "name": "a", "path": "/b"}, True, id="download by path"),
        pytest.param({"op": "download", "path": "/b"}, False, id="download of a directory"),
        pytest.param({"op": "list"}, True, id="list"),
        pytest.param({"op": "list", "path": "/a", "limit": MAX_LISTED}, True, id="list of a directory"),
        pytest.param({"op": "list", "limit": MAX_LISTED + 1}, False, id="a long list"),
        pytest.param({"op": "delete", "file_id": FILE}, False, id="delete"),
        pytest.param({"op": None}, False, id="nothing"),
    ],
)
def test_the_schema_and_the_reader_agree(body: dict[str, Any], good: bool) -> None:
    whole = {"id": "8f3c-1", **body}
    assert (is_taken(whole), accepts("ask", whole)) == (good, good)


def _said(text: str) -> bytes:
    return (
        '{"id": "8f3c-1", "op": "upload", "name": "a", "size": 5, "sha256": "%s", ' % ("a" * 64) + text + "}"
    ).encode()


@pytest.mark.fault("F-49c")
@pytest.mark.parametrize(
    ("text", "member", "value", "places"),
    [
        ('"metadata": {"t": NaN, "u": [-inf, 1]}', "metadata", {"t": None, "u": [None, 1]}, 2),
        ('"metadata": {"t": 1e400}', "metadata", {"t": None}, 1),
        ('"metadata": {"\\ud83d": 1}', "metadata", {"\ufffd": 1}, 1),
        ('"name": "a\\ud83d"', "name", "a\ufffd", 1),
        ('"path": nan', "path", "/", 1),
        ('"category": NaN', "category", "other", 1),
        ('"more": NaN', "name", "a", 0),
    ],
)
def test_what_json_cannot_write_stands_for_no_value(text: str, member: str, value: Any, places: int) -> None:
    read = read_members(_said(text))
    new = read_ask(read.id, read.members).new
    assert new is not None
    assert (getattr(new, member), len(read.mended)) == (value, places)


@pytest.mark.fault("F-49c")
@pytest.mark.parametrize("text", ['"size": NaN', '"size": 1e400', '"name": nan', '"sha256": "\\ud83d"', '"op": NaN'])
def test_a_member_without_a_value_is_refused_by_name(text: str) -> None:
    read = read_members(_said(text))
    with pytest.raises(ValidationFailed) as refused:
        read_ask(read.id, read.members)
    details: Any = refused.value.details
    assert [each["field"] for each in details] == [text.split('"')[1]]


@pytest.mark.fault("F-49c")
@pytest.mark.parametrize("ask_id", ['"\\ud83d"', "NaN", '"a b"', "5"])
def test_an_ask_without_an_id_has_no_answer(ask_id: str) -> None:
    with pytest.raises(Unreadable) as unreadable:
        read_members(b'{"id": %s, "op": "list"}' % ask_id.encode())
    assert unreadable.value.field == "id"


def test_what_the_page_shows_is_taken() -> None:
    shown = [json.loads(text) for name, text in examples() if name == "ask"]
    assert {each["op"] for each in shown} == {"upload", "parts", "complete", "show", "download", "list"}
    assert all(is_taken(each) for each in shown)


def test_the_page_names_the_topics() -> None:
    page = (DOCS / "mqtt.md").read_text()
    assert "`file/karma/<thing>/ask`" in page
    assert "`file/karma/<thing>/answer`" in page
    assert asking_thing("file/karma/EOS-1/ask") == "EOS-1"
    assert file_answer_topic("EOS-1") == "file/karma/EOS-1/answer"


@pytest.mark.parametrize(
    "topic", ["file/karma//ask", "file/karma/a/b/ask", "dt/karma/a/ask", "file/karma/a/answer", ""]
)
def test_other_topics_are_no_asks(topic: str) -> None:
    assert asking_thing(topic) is None
    assert read_topic("file/karma/EOS-1/ask") is None, "ingest has nothing to do with asks"


def test_a_cursor_comes_back_as_it_was_given() -> None:
    position = {"id": FILE, "name": "ü", "is_directory": False, "total": 5, "capped": False}
    ask = read_ask("1", {"op": "list", "cursor": cursor_of(position)})
    assert ask.after == {"id": FILE, "name": "ü", "is_directory": False, "total": 0, "capped": True}

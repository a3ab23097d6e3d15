import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma_device.messages import Answer, CommandStatus, RequestInvalid, Topics, encode_answer, parse_request

REQUEST = {"id": "i", "command": "move", "params": {"x": 1}, "issued_at": 1, "expires_at": 2, "serial": False}


def test_topics() -> None:
    plain, direct = Topics("EOS-1"), Topics("EOS-1", "karma_prod_data")
    assert plain.telemetry == "dt/karma/EOS-1/telemetry"
    assert direct.telemetry == "$aws/rules/karma_prod_data/dt/karma/EOS-1/telemetry"
    assert direct.response == "cmd/karma/EOS-1/response"


def test_unknown_fields_are_ignored() -> None:
    command = parse_request(json.dumps({**REQUEST, "later": [1]}).encode())
    assert (command.id, command.name, command.params) == ("i", "move", {"x": 1})


@pytest.mark.parametrize("field", sorted(REQUEST))
@pytest.mark.parametrize("value", [None, [], 1.5, "", -1, {"a": float("inf")}])
def test_a_field_of_the_wrong_type_is_refused(field: str, value: object) -> None:
    with pytest.raises(RequestInvalid):
        parse_request(json.dumps({**REQUEST, field: value}).encode())


@pytest.mark.parametrize("field", sorted(REQUEST))
def test_a_missing_field_is_refused(field: str) -> None:
    with pytest.raises(RequestInvalid):
        parse_request(json.dumps({k: v for k, v in REQUEST.items() if k != field}).encode())


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_no_payload_crashes_the_reader(payload: bytes) -> None:
    with pytest.raises(RequestInvalid):
        parse_request(payload)


def test_an_answer_says_everything() -> None:
    assert json.loads(encode_answer("i", Answer.refused(CommandStatus.FAILED, "X", "why"), ts=5)) == {
        "id": "i",
        "status": "failed",
        "result": None,
        "error": {"code": "X", "message": "why"},
        "ts": 5,
    }

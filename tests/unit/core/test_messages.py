"""Messages that name something by its ids are read back, and nothing else is."""

import pytest

from karma.core.errors import ValidationFailed
from karma.core.ids import new_id
from karma.core.messages import named, naming

A, B = new_id(), new_id()


def test_a_message_names_what_it_was_written_for() -> None:
    body = naming("alarm", device_id=A, alarm_id=B)
    assert named(body, "alarm", "alarm_id", "device_id") == (B, A)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        '{"alarm": 1}',
        naming("alarm", device_id=new_id()),
        '{"alarm": {"device_id": 1, "alarm_id": 2}}',
        '{"alarm": {"device_id": "DEV#1", "alarm_id": "a"}}',
        naming("export", device_id=new_id(), alarm_id=new_id()),
    ],
    ids=["nothing", "null", "list", "number", "one missing", "numbers", "no ids", "something else"],
)
def test_what_is_no_such_message_is_refused(body: str) -> None:
    with pytest.raises(ValidationFailed):
        named(body, "alarm", "device_id", "alarm_id")

"""The call that an interrupt asks about, as people are shown it who approve."""

from __future__ import annotations

from typing import Any

import pytest

from karma_agent.interrupts import arguments_of


@pytest.mark.parametrize(
    ("metadata", "shown"),
    [
        ({"toolName": "move", "arguments": '{"speed":1.5}'}, {"speed": 1.5}),
        ({"toolName": "move", "arguments": '{"path":"aaa', "argumentsCut": True}, None),
        ({"budget": "run"}, None),
        (None, None),
    ],
    ids=["a call", "a call with more", "a budget", "nothing"],
)
def test_arguments_are_shown_as_the_call_is_made_with_them(metadata: dict[str, Any] | None, shown: object) -> None:
    assert arguments_of({"id": "r1/1", "metadata": metadata}) == shown

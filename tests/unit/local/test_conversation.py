"""Output of the terminal for a run, and results that it refuses to call a success."""

import pytest

from local.conversation import Transcript
from local.errors import LocalError

RUN = [
    {"type": "RUN_STARTED"},
    {"type": "TEXT_MESSAGE_START", "messageId": "m1"},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": "I will "},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": "look."},
    {"type": "TEXT_MESSAGE_END", "messageId": "m1"},
    {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "searchDatabase"},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": '{"query":'},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": '"x"}'},
    {"type": "TOOL_CALL_END", "toolCallId": "c1"},
    {"type": "TOOL_CALL_RESULT", "toolCallId": "c1", "content": "{}"},
]


def test_it_prints_text_calls_and_results() -> None:
    written: list[str] = []
    transcript = Transcript(written.append)
    transcript.follow([*RUN, {"type": "RUN_FINISHED", "outcome": {"type": "success"}}])
    assert "".join(written) == 'Agent  I will look.\n   calls searchDatabase {"query":"x"}\n   answer {}\n'
    assert (transcript.text, transcript.deltas, transcript.tools) == ("I will look.", 2, ["searchDatabase"])


def test_a_stream_that_just_ends_is_an_error() -> None:
    with pytest.raises(LocalError, match="before the run did"):
        Transcript(lambda _: None).follow(RUN)


def test_a_failed_run_is_an_error() -> None:
    with pytest.raises(LocalError, match="OVERLOADED busy"):
        Transcript(lambda _: None).follow([{"type": "RUN_ERROR", "code": "OVERLOADED", "message": "busy"}])

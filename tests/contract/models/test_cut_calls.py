"""Calls of tools in pieces, in the dialects in which servers of Chat Completions cut them: the same calls in each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karma.integrations.openai_turn import ChatTurn
from karma.models.domain import ModelErrorCode
from karma.models.ports import ModelFailed, ToolArguments, ToolBegun, ToolEnded
from tests.support.chat_calls import call
from tests.support.chat_stream import chunks

Calls = Sequence[tuple[str, Sequence[str]]]
"""The name of each call, and the pieces of its arguments; none is ""."""
Pieces = list[dict[str, Any]]


def cut_up(calls: Calls, begin: Callable[[int, str], Pieces], more: Callable[[int, int, str], Pieces]) -> Pieces:
    """Write each call as what begins it, and then as the pieces of its arguments."""
    return [
        piece
        for n, (name, parts) in enumerate(calls)
        for piece in (*begin(n, name), *(each for k, part in enumerate(parts) for each in more(n, k, part)))
    ]


def blank(index: int | None, part: str) -> dict[str, Any]:
    return {**call(index, part, call_id=" "), "function": {"name": "", "arguments": part}}


def by_index(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(n, call_id=f"c{n}", name=f)], lambda n, _, part: [call(n, part)])


def with_an_id_a_piece(calls: Calls) -> Pieces:
    return cut_up(
        calls,
        lambda n, f: [call(n, call_id=f"c{n}", name=f), call(n, call_id=f"e{n}")],
        lambda n, k, part: [call(n, part, call_id=f"c{n}-{k}")],
    )


def with_an_id_a_piece_and_one_index(calls: Calls) -> Pieces:
    return cut_up(
        calls,
        lambda n, f: [call(0, call_id=f"c{n}", name=f)],
        lambda n, k, part: [call(0, part, call_id=f"c{n}-{k}")],
    )


def with_blank_ids(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(n, call_id=f"c{n}", name=f)], lambda n, _, part: [blank(n, part)])


def with_blank_ids_alone(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(None, call_id=f"c{n}", name=f)], lambda n, _, part: [blank(None, part)])


def under_the_next_index(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(n, call_id=f"c{n}", name=f)], lambda n, _, part: [call(n + 1, part)])


def under_ever_higher_indices(calls: Calls) -> Pieces:
    written: Pieces = []
    for n, (name, parts) in enumerate(calls):
        written.append(call(len(written), call_id=f"c{n}", name=name))
        written += [call(len(written) + k, part) for k, part in enumerate(parts)]
    return written


def under_the_next_index_without_ids(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(n, name=f)], lambda n, _, part: [call(n + 1, part)])


def with_one_id(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(n, call_id="c", name=f)], lambda n, _, part: [call(n, part, call_id="c")])


def with_the_id_of_the_next_one_of_ours(calls: Calls) -> Pieces:
    return cut_up(
        calls, lambda n, f: [call(n, call_id="" if n else "call_1", name=f)], lambda n, _, part: [call(n, part)]
    )


def with_ids_like_those_made_of_them(calls: Calls) -> Pieces:
    ids = ("call", "call_2", "call", "call_3")
    return cut_up(calls, lambda n, f: [call(n, call_id=ids[n], name=f)], lambda n, _, part: [call(n, part)])


def with_one_index(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(0, call_id=f"c{n}", name=f)], lambda _, __, part: [call(0, part)])


def without_ids(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(n, name=f)], lambda n, _, part: [call(n, part)])


def without_ids_or_indices(calls: Calls) -> Pieces:
    return [
        piece
        for name, (first, *rest) in calls
        for piece in (call(None, first, name=name), *(call(None, part) for part in rest))
    ]


def with_one_index_and_no_ids(calls: Calls) -> Pieces:
    return [
        piece
        for name, (first, *rest) in calls
        for piece in (call(0, first, name=name), *(call(0, part) for part in rest))
    ]


def with_ids_for_indices(calls: Calls) -> Pieces:
    return cut_up(
        calls,
        lambda n, f: [call(None, call_id=f"c{n}", name=f)],
        lambda n, k, part: [call(None, part, call_id=f"c{n}" if k % 2 else "")],
    )


def with_the_id_before_the_name(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(n, call_id=f"c{n}"), call(n, name=f)], lambda n, _, part: [call(n, part)])


def with_one_index_and_the_id_before_the_name(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: [call(0, call_id=f"c{n}"), call(0, name=f)], lambda _, __, part: [call(0, part)])


def with_all_again(calls: Calls) -> Pieces:
    return cut_up(
        calls,
        lambda n, f: [call(n, call_id=f"c{n}", name=f)],
        lambda n, _, part: [call(n, part, call_id=f"c{n}", name=calls[n][0])],
    )


def named(index: int | None, name: str, *, call_id: str, again: bool) -> Pieces:
    """Write the beginning of a call whose name comes in two pieces, of which the second may have its id again."""
    rest = [call(index, call_id=call_id if again else "", name=name[1:])] if name[1:] else []
    return [call(index, call_id=call_id, name=name[:1]), *rest]


def with_names_in_pieces(calls: Calls) -> Pieces:
    return cut_up(
        calls,
        lambda n, f: named(n, f, call_id=f"c{n}", again=True),
        lambda n, _, part: [call(n, part, call_id=f"c{n}")],
    )


def with_names_in_pieces_by_index(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: named(n, f, call_id=f"c{n}", again=False), lambda n, _, part: [call(n, part)])


def with_names_in_pieces_by_id(calls: Calls) -> Pieces:
    return cut_up(
        calls,
        lambda n, f: named(None, f, call_id=f"c{n}", again=True),
        lambda n, _, part: [call(None, part, call_id=f"c{n}")],
    )


def with_names_in_pieces_and_one_index(calls: Calls) -> Pieces:
    return cut_up(calls, lambda n, f: named(0, f, call_id=f"c{n}", again=True), lambda _, __, part: [call(0, part)])


def in_turns(calls: Calls) -> Pieces:
    begun = [call(n, call_id=f"c{n}", name=name) for n, (name, _) in enumerate(calls)]
    longest = max(len(parts) for _, parts in calls)
    return begun + [
        call(n, parts[k], call_id=f"x{n}-{k}")
        for k in range(longest)
        for n, (_, parts) in enumerate(calls)
        if k < len(parts)
    ]


DIALECTS: Sequence[Callable[[Calls], Pieces]] = (
    by_index,
    with_an_id_a_piece,
    with_an_id_a_piece_and_one_index,
    with_blank_ids,
    with_blank_ids_alone,
    under_the_next_index,
    under_ever_higher_indices,
    under_the_next_index_without_ids,
    with_one_id,
    with_the_id_of_the_next_one_of_ours,
    with_ids_like_those_made_of_them,
    with_one_index,
    without_ids,
    without_ids_or_indices,
    with_one_index_and_no_ids,
    with_ids_for_indices,
    with_the_id_before_the_name,
    with_one_index_and_the_id_before_the_name,
    with_all_again,
    with_names_in_pieces,
    with_names_in_pieces_by_index,
    with_names_in_pieces_by_id,
    with_names_in_pieces_and_one_index,
    in_turns,
)

names = st.sampled_from(["f", "g", "w__order"])
arguments = st.dictionaries(
    st.text(st.sampled_from('{}":\\a é'), max_size=3),
    st.integers() | st.text(max_size=5) | st.lists(st.booleans()),
    max_size=3,
)


@st.composite
def cut_calls(draw: st.DrawFn) -> Calls:
    made: list[tuple[str, Sequence[str]]] = []
    for _ in range(draw(st.integers(1, 4))):
        text = json.dumps(draw(arguments), ensure_ascii=draw(st.booleans()))
        at = sorted({0, len(text), *draw(st.lists(st.integers(1, len(text) - 1), max_size=4))})
        made.append((draw(names), [text[a:b] for a, b in pairwise(at)]))
    return made


def heard(pieces: Sequence[Mapping[str, Any]]) -> list[tuple[str, object]]:
    """Read an answer with these pieces; return the calls that are told."""
    turn = ChatTurn()
    events = turn.feed(b"".join(chunks(calls=pieces)))
    assert turn.is_complete
    told = [(each.id, each.name) for each in events if isinstance(each, ToolBegun)]
    begun = dict(told)
    assert len(begun) == len(told), "two calls with one id"
    texts = {each.call_id: each.arguments for each in events if isinstance(each, ToolEnded)}
    streamed = dict.fromkeys(begun, "")
    for each in events:
        if isinstance(each, ToolArguments):
            streamed[each.id] += each.delta
    assert begun.keys() == texts.keys()
    assert streamed == texts
    return [(name, json.loads(texts[call_id])) for call_id, name in begun.items()]


@pytest.mark.fault("F-32cg", "F-33a", "F-33e")
@given(calls=cut_calls(), dialects=st.lists(st.sampled_from(DIALECTS), min_size=4, max_size=4, unique=True))
@example(dialects=DIALECTS, calls=[("f", ["{", "}"]), ("f", ["{}"]), ("f", ['{"a"', ":1}"]), ("w__order", ["{}"])])
def test_calls_are_the_same_in_each_dialect(calls: Calls, dialects: Sequence[Callable[[Calls], Pieces]]) -> None:
    expected = [(name, json.loads("".join(parts))) for name, parts in calls]
    for dialect in dialects:
        assert heard(dialect(calls)) == expected, dialect.__name__


@pytest.mark.fault("F-33a")
@pytest.mark.parametrize("index", [0, None])
@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("second", ["f", "g"])
def test_calls_of_one_id_at_one_place_are_as_many_as_there_are_whole_objects(
    index: int | None, is_split: bool, second: str
) -> None:
    for first_text, second_text in (
        ('{"a": 1}', '{"b": 2}'),
        ('{"a": {}}', "{}"),
        *([("{}", '{"b": 2}')] * (second == "g")),
    ):
        pieces = []
        for name, text in (("f", first_text), (second, second_text)):
            begun = call(index, "" if is_split and name != "f" else text[:1], call_id="c", name=name)
            pieces += [begun, *([call(index, text[:1])] if is_split and name != "f" else []), call(index, text[1:])]

        assert heard(pieces) == [("f", json.loads(first_text)), (second, json.loads(second_text))]


@pytest.mark.fault("F-32cg", "F-33f")
@pytest.mark.parametrize(
    "pieces",
    [
        [call(0, "{}")],
        [call(0, "{}", call_id="c")],
        [call(0, '{"a":1}', call_id="c", name="f"), call(1, '{"a":2}', call_id="d")],
        [call(0, '{"a":1}', call_id="c", name="f"), call(1, '{"a":2}')],
        [call(0, "{}", call_id="c", name="f"), call(1, '{"a":2}', call_id="d")],
        [call(0, "{}", call_id="c", name="f"), call(1, '{"a":2}')],
        [call(0, "{", call_id="c", name="f"), call(0, "}"), call(1, '{"a":2}')],
        [call(None, "{}", call_id="c", name="f"), call(None, '{"a":2}', call_id="d")],
    ],
    ids=[
        "no name",
        "no name with an id",
        "a second one with an id",
        "a second one",
        "behind none with an id",
        "behind none",
        "behind none in pieces",
        "behind none by its id",
    ],
)
def test_arguments_that_are_nobody_s_are_no_answer(pieces: Pieces) -> None:
    with pytest.raises(ModelFailed) as failed:
        ChatTurn().feed(b"".join(chunks(calls=pieces)))
    assert failed.value.code is ModelErrorCode.MODEL_STREAM_CUT

"""Whatever schemas and arguments are made of, checking them costs little: what could cost more is not checked.

No test measures time: the work is counted, by a reference that computes the size of an expansion without expanding.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.tools.failures import BadArguments
from karma.tools.json_arguments import (
    MAX_LEVELS,
    MAX_PATTERN_CHARS,
    MAX_PATTERNS,
    MAX_STEPS,
    MAX_VALUES,
    Expansion,
    JsonArguments,
    expansion_of,
)
from local.places import ROOT

VALIDATOR = jsonschema_rs.Draft202012Validator
MAX_CPU_S = 20
"""Seconds of the processor after which the system ends a process: the attacks below would take years."""

DEFINITIONS = 7
NAMES = [f"d{i}" for i in range(DEFINITIONS)]
REFERENCES = st.sampled_from(["#", *(f"#/$defs/{name}" for name in NAMES)]).map(lambda to: {"$ref": to})
LEAVES = st.sampled_from([{"type": "string"}, {"pattern": "^a+$"}, {"uniqueItems": True}, {}, True])


IN_PLACE_OR_BELOW = ("items", "not", "additionalProperties", "if", "then")


def schemas(references: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        listed = st.lists(inner, min_size=1, max_size=3)
        named = st.dictionaries(st.sampled_from(["a", "b", "^a"]), inner)
        return (
            st.dictionaries(st.sampled_from(IN_PLACE_OR_BELOW), inner)
            | st.dictionaries(st.sampled_from(["allOf", "anyOf", "oneOf"]), listed, max_size=1)
            | st.dictionaries(st.sampled_from(["properties", "patternProperties"]), named, max_size=1)
        )

    return st.recursive(references | LEAVES, larger, max_leaves=4)


@st.composite
def hostile(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a schema whose references go anywhere, or only to definitions that follow: then there is no circle."""
    is_acyclic = draw(st.booleans())
    found: dict[str, Any] = {}
    for i, name in enumerate(NAMES):
        later = NAMES[i + 1 :]
        ahead = st.sampled_from(later or NAMES).map(lambda to: {"$ref": f"#/$defs/{to}"})
        found[name] = draw(schemas((ahead if later else LEAVES) if is_acyclic else REFERENCES))
    return {"type": "object", "properties": {"a": draw(schemas(REFERENCES))}, "$defs": found}


def reference(schema: Mapping[str, Any]) -> Expansion | None:
    """Compute the size of an expansion from those of its parts, each looked at once; None: too large, or endless."""
    known: dict[int, tuple[int, int, int, int]] = {}
    entered: set[int] = set()

    def of(value: Any) -> tuple[int, int, int, int]:
        if not isinstance(value, dict | list):
            return 0, 0, 0, 0
        if id(value) in known:
            return known[id(value)]
        if id(value) in entered:
            raise RecursionError
        entered.add(id(value))
        pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        parts = []
        for key, each in pairs:
            if key == "$ref":
                parts.append(of(schema if each == "#" else schema["$defs"][each.removeprefix("#/$defs/")]))
            else:
                parts.append(of(each))
        named = value.get("patternProperties", {}) if isinstance(value, dict) else {}
        patterns = len(named) + ("pattern" in value if isinstance(value, dict) else 0)
        known[id(value)] = (
            len(pairs) + sum(each[0] for each in parts),
            patterns + sum(each[1] for each in parts),
            (isinstance(value, dict) and "uniqueItems" in value) + sum(each[2] for each in parts),
            1 + max((each[3] for each in parts), default=0),
        )
        return known[id(value)]

    try:
        values, patterns, uniques, levels = of(schema)
    except RecursionError:
        return None
    if values > MAX_VALUES or levels > MAX_LEVELS or patterns > MAX_PATTERNS:
        return None
    return Expansion(values, patterns, uniques)


@settings(max_examples=60)
@given(hostile())
def test_a_schema_is_checked_only_if_its_expansion_is_small(schema: dict[str, Any]) -> None:
    schema = orjson.loads(orjson.dumps(schema))  # no part of it is the same object as another
    assert expansion_of(schema) == reference(schema)


@settings(max_examples=40)
@given(
    hostile(),
    st.recursive(
        st.integers() | st.text() | st.sampled_from(["a" * 20_000, 10**4_000, 0.5]),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    ),
    st.sampled_from([1, 50, 2_000]),
)
def test_arguments_are_applied_to_within_the_budget_or_not_at_all(
    schema: dict[str, Any], value: object, times: int
) -> None:
    schema, arguments = orjson.loads(orjson.dumps(schema)), {"a": [value] * times}
    asked = JsonArguments(schema)
    applied: list[object] = []

    class Spy:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.made = VALIDATOR(*args, **options)

        def validate(self, given: object) -> None:
            applied.append(given)
            self.made.validate(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonschema_rs, "Draft202012Validator", Spy)
        try:
            assert asked.checked(arguments) == arguments
        except BadArguments:
            assert applied  # nothing but the validator refuses them
    if applied:
        expansion = reference(schema)
        assert expansion is not None
        assert expansion.steps(arguments) <= MAX_STEPS


def billion_laughs(levels: int, keyword: str = "allOf") -> dict[str, Any]:
    defs: dict[str, Any] = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    defs[f"d{levels}"] = {"type": "string"}
    return {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": defs}


def nested(keyword: str, levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"allOf": [schema], keyword: {"type": "number"}}
    return {"type": "object", "properties": {"a": schema}}


IN_PLACE = {"allOf": [{"$ref": "#/$defs/d"}, {"$ref": "#/$defs/d"}]}
ATTACKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "expansion": (billion_laughs(40), {"a": "x"}),
    "expansion of one of": (billion_laughs(40, "oneOf"), {"a": "x"}),
    "circle in place": ({"type": "object", "$ref": "#"}, {"a": 1}),
    "circle by levels": (
        {"type": "object", "$defs": {"d": {"properties": {"a": IN_PLACE}}}, "$ref": "#/$defs/d"},
        {"a": {"a": {"a": {"a": {"a": "x"}}}}},
    ),
    "anchor": ({"type": "object", "$defs": {"d": {"$anchor": "x", "allOf": [{"$ref": "#x"}] * 2}}, "$ref": "#x"}, {}),
    "dynamic": ({"type": "object", "$dynamicAnchor": "n", "properties": {"a": {"$dynamicRef": "#n"}}}, {"a": {}}),
    "backtracking": (
        {"type": "object", "patternProperties": {r"^(?:(a|aa)+)\1x$": {}}},
        {"a" * (40 + i): 1 for i in range(200)},
    ),
    "lookahead": ({"type": "object", "properties": {"a": {"pattern": r"^(?=(a+)+$)b"}}}, {"a": "a" * 60 + "!"}),
    "large patterns": (
        {
            "type": "object",
            "properties": {f"p{i}": {"pattern": rf"(?:[\w\p{{L}}]{{200}}){{{200 + i}}}"} for i in range(60)},
        },
        {f"p{i}": "x" for i in range(60)},
    ),
    "a large pattern": ({"type": "object", "properties": {"a": {"pattern": r"(?:\w{200}){200}"}}}, {"a": "x"}),
    "a long pattern": ({"type": "object", "properties": {"a": {"pattern": "a" * (MAX_PATTERN_CHARS + 1)}}}, {"a": "x"}),
    "unevaluated properties": (nested("unevaluatedProperties", 30), {"a": {"b": "x"}}),
    "unevaluated items": (nested("unevaluatedItems", 30), {"a": ["x"]}),
    "unique items": (
        {"type": "object", "properties": {"a": {"uniqueItems": True}}},
        {"a": [{"k": i // 2} for i in range(20_000)]},
    ),
    "many values": ({"type": "object", "properties": {"a": {"items": {"type": "string"}}}}, {"a": [1] * 200_000}),
    "many errors": (
        {"type": "object", "properties": {"a": {"items": {"anyOf": [{"type": "string"}] * 2_000}}}},
        {"a": [1] * 2_000},
    ),
    "another document": ({"type": "object", "properties": {"a": {"$ref": "https://example.com/x"}}}, {"a": 1}),
    "nowhere": ({"type": "object", "properties": {"a": {"$ref": "#/$defs/none/0"}}}, {"a": 1}),
    "another base": ({"type": "object", "properties": {"a": {"$id": "x:y", "$ref": "#"}}}, {"a": 1}),
}
SCRIPT = f"""
import resource, sys, orjson
resource.setrlimit(resource.RLIMIT_CPU, ({MAX_CPU_S}, {MAX_CPU_S}))
from karma.tools.json_arguments import JsonArguments
for schema, arguments in orjson.loads(sys.stdin.buffer.read()):
    assert JsonArguments(schema).checked(arguments) == arguments
print("done")
"""


def test_attacks_end_and_are_passed_on_unchecked() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=orjson.dumps(list(ATTACKS.values())),
        capture_output=True,
        cwd=ROOT / "layers/common/python",
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (0, b"done\n"), ended.stderr


@pytest.mark.parametrize(
    ("schema", "arguments", "message"),
    [
        ({"required": ["a"]}, {}, 'The arguments: "a" is a required property'),
        ({"properties": {"a": {"items": {"type": "string"}}}}, {"a": ["x", 1]}, 'a.1: 1 is not of type "string"'),
        ({"properties": {"a": {"pattern": "^a+$"}}}, {"a": "b"}, 'a: "b" does not match "^a+$"'),
        ({"patternProperties": {"^a": {"type": "string"}}}, {"ab": 1}, 'ab: 1 is not of type "string"'),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [1, 1]}, "a: [1,1] has non-unique elements"),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$id": "https://example.com/x",
                "properties": {"a": {"$ref": "#/definitions/b~1c"}},
                "definitions": {"b/c": {"type": "string"}},
            },
            {"a": 1},
            'a: 1 is not of type "string"',
        ),
        (billion_laughs(5), {"a": 1}, 'a: 1 is not of type "string"'),
        ({"properties": {"$ref": {"type": "string"}}}, {"$ref": 1}, '$ref: 1 is not of type "string"'),
    ],
)
def test_what_ordinary_schemas_forbid_is_refused(
    schema: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadArguments) as refused:
        JsonArguments({"type": "object", **schema}).checked(arguments)

    assert str(refused.value) == message


@pytest.mark.parametrize("schema", [{"properties": {"a": {"type": "nope"}}}, {"properties": {"a": {"pattern": "("}}}])
def test_a_schema_that_cannot_be_applied_checks_nothing(schema: dict[str, Any]) -> None:
    assert JsonArguments({"type": "object", **schema}).checked({"a": 1}) == {"a": 1}

"""A schema of a client's tool that passes our check is valid by JSON Schema 2020-12 and by the Messages API's rules."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from karma.core.errors import ValidationFailed
from karma.runs.requests import parse_run_input
from karma.tools.json_schema import _KEYWORDS, problems_of

META = Draft202012Validator(Draft202012Validator.META_SCHEMA)
BY_FORM_ALONE = {"$id", "$schema", "$ref", "$dynamicRef", "$anchor", "$dynamicAnchor"}
"""Keywords whose values the metaschema also requires to look like URIs or names."""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(-1, 2) | st.sampled_from(["string", "object", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted(set(_KEYWORDS) - BY_FORM_ALONE)), inner, max_size=3)
    ),
    max_leaves=8,
)
SCHEMAS = st.dictionaries(st.sampled_from(sorted(set(_KEYWORDS) - BY_FORM_ALONE)), VALUES, max_size=4)


def refused(*tools: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationFailed) as caught:
        parse_run_input(orjson.dumps({"tools": tools}))
    return [str(entry["field"]) for entry in caught.value.details]  # type: ignore[union-attr, index]


@pytest.mark.fault("F-07b")
@given(SCHEMAS)
def test_the_metaschema_says_the_same(schema: dict[str, Any]) -> None:
    inner = {"type": "object", "properties": {"a": schema}}

    assert (problems_of(inner) == []) == META.is_valid(inner), (schema, problems_of(inner))


@pytest.mark.fault("F-07b")
@pytest.mark.parametrize("union", ["oneOf", "anyOf", "allOf"])
def test_a_union_stands_below_the_top_level_only(union: str) -> None:
    schema = {union: [{"type": "object"}]}

    assert refused({"name": "a", "parameters": {"type": "object", **schema}}) == [f"tools.0.parameters.{union}"]
    parse_run_input(orjson.dumps({"tools": [{"name": "a", "parameters": {"properties": {"b": schema}}}]}))


@pytest.mark.fault("F-07b")
@pytest.mark.parametrize(
    ("tool", "field"),
    [
        ({"name": "two words"}, "tools.1.name"),
        ({"name": "é"}, "tools.1.name"),
        ({"name": "x" * 65}, "tools.1.name"),
        ({"name": "first"}, "tools.1.name"),
        ({"name": "b", "parameters": {"type": "string"}}, "tools.1.parameters.type"),
        ({"name": "b", "parameters": {"type": ["object"]}}, "tools.1.parameters.type"),
        ({"name": "b", "parameters": {"properties": {"a b": {}}}}, "tools.1.parameters.properties.a b"),
        ({"name": "b", "parameters": {"properties": {"a": {"type": "text"}}}}, "tools.1.parameters.properties.a.type"),
        ({"name": "b", "parameters": {"required": "a"}}, "tools.1.parameters.required"),
    ],
)
def test_what_the_model_would_refuse_is_refused_by_name(tool: dict[str, Any], field: str) -> None:
    assert refused({"name": "first"}, tool) == [field]

"""Every operation of the description has examples of its request and answers, and they are valid by its schemas."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker

from karma.http.openapi_examples import NamedTwice, fields, merged
from tests.support import contract

pytestmark = pytest.mark.req("R-M-21")


def places(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where an example belongs, with what holds it: parameters, bodies, answers of success."""
    for operations in document["paths"].values():
        for operation in operations.values():
            name = operation["operationId"]
            for parameter in operation.get("parameters", ()):
                yield f"{name}: {parameter['name']}", parameter
            for media in operation.get("requestBody", {}).get("content", {}).values():
                yield f"{name}: body", media
            for status, answer in operation["responses"].items():
                if status.startswith("2"):
                    yield from ((f"{name}: {status}", media) for media in answer.get("content", {}).values())


@pytest.fixture(params=["api", "stream"])
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    return contract.committed(request.param)


class TestAnExample:
    def test_is_there(self, document: dict[str, Any]) -> None:
        lacking = [where for where, place in places(document) if "example" not in place]
        assert not lacking, f"karma/<context>/examples.py or agent_stream/openapi.py has none of: {', '.join(lacking)}"

    def test_is_what_its_schema_allows(self, document: dict[str, Any]) -> None:
        wrong = []
        for where, place in places(document):
            if "example" in place:
                # References are looked up from the root of a schema.
                schema = {**place.get("schema", {}), "components": document["components"]}
                validator = OAS31Validator(schema, format_checker=oas31_format_checker)
                wrong += [
                    f"{where}: {error.json_path}: {error.message}" for error in validator.iter_errors(place["example"])
                ]
        assert not wrong, "\n".join(wrong)

    def test_is_of_more_than_a_hundred_places(self) -> None:
        assert len(list(places(contract.committed()))) > 100

    def test_is_of_something_that_is_there(self) -> None:
        document = contract.committed()
        schemas = document["components"]["schemas"]
        names = {*schemas, *(f"{model}.{each}" for model in schemas for each in schemas[model].get("properties", ()))}
        for operations in document["paths"].values():
            for operation in operations.values():
                told = {each["name"] for each in operation.get("parameters", ())}
                names |= told | {f"{operation['operationId']}.{each}" for each in told}
        names |= {name.partition(".")[2] for name in names}
        assert fields().keys() - names == set()

    def test_has_its_name_in_one_context(self) -> None:
        one, other = ModuleType("one"), ModuleType("other")
        vars(one)["FIELDS"], vars(other)["FIELDS"] = {"note": "", "JarView.note": "Plum"}, {"note": None}
        with pytest.raises(NamedTwice, match="other: note"):
            merged([one, other])

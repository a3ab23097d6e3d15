"""If-Match as RFC 9110 writes it, and routes that take none."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from karma.core.errors import StaleVersion, ValidationFailed
from karma.http.locking import IfMatch, IfNoneMatch, etag, expected_existence, expected_version
from karma.http.routing import Route
from tests.support import contract

pytestmark = pytest.mark.fault("F-24q")

VERSIONS = st.integers(0, 10**18 - 1)
OTHER_TAGS = st.from_regex(r"[!#-+\--~]{0,9}[a-z,]", fullmatch=True)
BETWEEN = st.sampled_from([",", ", ", " ,", "\t,\t", ", ,", ",,"])


@given(st.data(), st.integers(0, 2**62))
def test_a_list_names_the_version_that_is_in_it(data: st.DataObject, version: int) -> None:
    """Among any tags of others, weak or not, however often and with whatever blanks between."""
    version %= 10**18
    own = st.sampled_from([f'"{version}"', f'W/"{version}"', etag(version)["ETag"]])
    others = data.draw(st.lists(OTHER_TAGS.map(lambda text: f'"{text}"'), max_size=3))
    tags = data.draw(st.permutations([*others, *data.draw(st.lists(own, min_size=1, max_size=3))]))
    text = tags[0] + "".join(data.draw(BETWEEN) + tag for tag in tags[1:]) + data.draw(st.sampled_from(["", ",", " "]))
    assert expected_version(text, otherwise=version) == expected_version(text) == version
    with pytest.raises(ValidationFailed, match="validation"):
        expected_version(text, otherwise=version + 1)
    if others:
        with pytest.raises(StaleVersion):
            expected_version(",".join(others))


@given(VERSIONS, VERSIONS)
def test_two_versions_are_refused_and_any_is_the_bodys(one: int, other: int) -> None:
    if one != other:
        with pytest.raises(ValidationFailed):
            expected_version(f'"{one}", "{other}"')
    assert expected_version("*", one) == expected_version(" * ", one) == expected_version(None, one) == one
    assert expected_version(str(one)) == one


@given(st.text(st.characters(max_codepoint=0x17F), max_size=12))
def test_whatever_is_sent_is_a_version_or_refused(text: str) -> None:
    try:
        found = expected_version(text)
    except (StaleVersion, ValidationFailed):
        return
    assert found is None if text.strip() == "*" else str(found) in re.sub(r"\b0+(?=[0-9])", "", text)


@pytest.mark.parametrize(
    "wrong", ["", " ", ",", '"3', '3"', '"3" "4"', '"3""3"', "3 3", "*,*", '*, "3"', 'w/"3"', "-1"]
)
def test_what_is_no_list_of_tags_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        expected_version(wrong)
    assert "'field': 'if-match'" in str(caught.value.details)


@pytest.mark.fault("F-24t")
def test_what_has_to_be_there_or_not_is_said_by_a_star() -> None:
    assert [expected_existence(text, None) for text in (None, '"3"', "*", " * ")] == [None, None, True, True]
    assert expected_existence(None, "*") is expected_existence(None, " *") is False
    for match, none_match in [(None, '"3"'), (None, '*, "3"'), (None, ""), ("*", "*"), ('"3"', "*")]:
        with pytest.raises(ValidationFailed) as caught:
            expected_existence(match, none_match)
        assert "'field': 'if-none-match'" in str(caught.value.details)


async def making(if_match: IfMatch = None, if_none_match: IfNoneMatch = None) -> Response:
    return Response(str(expected_existence(if_match, if_none_match)))


async def conditional(if_match: IfMatch = None) -> Response:
    return Response(str(expected_version(if_match)))


async def unconditional() -> Response:
    return Response("done")


def ask(method: str, endpoint: Any, *lines: str, header: str = "if-match") -> str:
    said = b""

    async def send(message: Any) -> None:
        nonlocal said
        said += message.get("body", b"")

    async def receive() -> Any:
        raise AssertionError("nobody reads the body")

    scope: Any = {
        "type": "http",
        "method": method,
        "path": "/",
        "path_params": {},
        "query_string": b"",
        "headers": [(header.encode(), line.encode()) for line in lines],
    }
    asyncio.run(Route("/", endpoint, methods=[method]).app(scope, receive, send))  # type: ignore[arg-type]
    return said.decode()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_changing_route_honours_the_header_or_refuses_it(method: str) -> None:
    assert ask(method, conditional, '"6"') == ask(method, conditional, '"x"', '"6"') == "6"
    assert ask(method, unconditional) == "done"
    with pytest.raises(RequestValidationError) as caught:
        ask(method, unconditional, '"6"')
    assert [each["loc"] for each in caught.value.errors()] == [("header", "if-match")]
    assert ask("GET", unconditional, '"6"') == "done"


@pytest.mark.fault("F-24t")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_changing_route_makes_only_what_is_not_there_or_refuses_to(method: str) -> None:
    assert ask(method, making, "*", header="if-none-match") == "False"
    for endpoint in (conditional, unconditional):
        for text in ("*", '"6"', ""):
            with pytest.raises(RequestValidationError) as caught:
                ask(method, endpoint, text, header="if-none-match")
            assert [each["loc"] for each in caught.value.errors()] == [("header", "if-none-match")]
        assert ask("GET", endpoint, '"6"', header="if-none-match")


@pytest.mark.fault("F-24t")
def test_what_is_put_under_a_name_of_the_client_s_takes_both() -> None:
    """Under an id that the server mints a PUT finds what is there, or nothing."""
    paths = contract.committed("api")["paths"]
    takes = {
        path: {each["name"].lower() for each in of["put"].get("parameters", ())}
        for path, of in paths.items()
        if "put" in of and path.endswith("}") and not path.endswith("_id}")
    }
    assert takes
    assert [path for path, names in takes.items() if not {"if-match", "if-none-match"} <= names] == []


def test_what_is_changed_by_version_is_deleted_by_version() -> None:
    paths = contract.committed("api")["paths"]

    def takes(operation: Any) -> bool:
        return any(each["name"].lower() == "if-match" for each in operation.get("parameters", ()))

    changed = {path for path, of in paths.items() if any(takes(of[each]) for each in ("put", "patch") if each in of)}
    deleted = {path for path in changed if "delete" in paths[path]}
    assert len(deleted) > 6
    # An account goes whatever its profile says: its owner has proven to be there.
    assert [path for path in deleted if not takes(paths[path]["delete"])] == ["/api/v1/users/me"]

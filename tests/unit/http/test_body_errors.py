"""For every rule of every body, enumerated from the schemas, the answer names the rule in words."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import unicodedata
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import pytest
from fastapi import Request
from fastapi.exceptions import RequestValidationError

from api import routes
from karma.core.errors import AppError
from karma.core.lines import WORDS
from karma.core.schemas import Body
from karma.core.wording import OTHER_FORM
from karma.http.bodies import JsonBody
from karma.http.errors import as_app_error
from karma.http.routing import Route

LIMITS = {
    "minLength": "must have at least {} character(s)",
    "maxLength": "must have at most {} character(s)",
    "minItems": "must have at least {} item(s)",
    "maxItems": "must have at most {} item(s)",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
}
TYPES = {
    "string": "must be text",
    "integer": "must be a whole number",
    "number": "must be a number",
    "boolean": "must be true or false",
    "array": "must be a list",
    "object": "must be a JSON object",
}


class Wrong(NamedTuple):
    """A value that breaks one rule of a member, and the expected message; "": any message in our words."""

    at: tuple[str | int, ...]
    value: object
    words: str


def bodies() -> Mapping[str, type[Body]]:
    found: dict[str, type[Body]] = {}
    for name in sorted(each.name for each in pkgutil.iter_modules(routes.__path__)):
        for route in importlib.import_module(f"api.routes.{name}").router.routes:
            if isinstance(route, Route) and "body" in route.endpoint.__annotations__:
                hint = get_type_hints(route.endpoint)["body"]
                model = next(each for each in (*get_args(hint), hint) if each is not NoneType)
                found[model.__name__] = model
    return found


def broken(schema: Mapping[str, Any], defs: Mapping[str, Any], at: tuple[str | int, ...] = ()) -> Iterator[Wrong]:
    """Yield one value for each rule that a schema states."""
    if "$ref" in schema:
        schema = {**defs[schema["$ref"].rpartition("/")[2]], **{k: v for k, v in schema.items() if k != "$ref"}}
    for each in schema.get("anyOf", ()):
        if each.get("type") != "null":
            yield from broken(each, defs, at)
    kind = schema.get("type", "")
    if "enum" in schema:
        yield Wrong(at, "no such", f"must be one of {_listed(schema['enum'])}")
        return
    if kind in TYPES and at:
        yield Wrong(at, 1 if kind in {"string", "array", "object"} else "x", "" if "format" in schema else TYPES[kind])
    yield from _limits(schema, at)
    if "items" in schema:
        yield from broken(schema["items"], defs, (*at, 0))
    for name, member in schema.get("properties", {}).items():
        yield from broken(member, defs, (*at, name))
        if name in schema.get("required", ()):
            yield Wrong((*at, name), ..., "is required")
    if schema.get("additionalProperties") is False:
        yield Wrong((*at, "no_such"), 1, "is not a field of this request")


def _limits(schema: Mapping[str, Any], at: tuple[str | int, ...]) -> Iterator[Wrong]:
    for rule, words in LIMITS.items():
        if rule not in schema:
            continue
        limit = schema[rule]
        value: object = limit + (1 if rule.startswith("max") else -1)
        if rule.endswith("Length"):
            value = "x" * int(str(value))
        elif rule.endswith("Items"):
            value = [str(each) for each in range(int(str(value)))]
        yield Wrong(at, value, words.format(limit))
    for text in ["\n\x00", "http://x", "a b", " ", "x" * 65] if "pattern" in schema else ():
        yield Wrong(at, text, "")
    for text in ["2026-01-01", "x", "2026-13-45T00:00:00Z", "2026-01-01T00:00:00"] if "format" in schema else ():
        yield Wrong(at, text, "")


def _listed(values: Sequence[str]) -> str:
    quoted = [repr(value) for value in values]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _with(wrong: Wrong) -> object:
    body: object = wrong.value
    for part in reversed(wrong.at):
        body = [body] if part == 0 else {} if body is ... else {part: body}
    return body


def told(model: type[Body], body: object) -> dict[str, str]:
    """Send a body as a request has it; return what the answer says of its fields."""
    raw = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))]

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": raw}

    try:
        asyncio.run(JsonBody(model, optional=False)(Request({"type": "http", "headers": headers}, receive)))
    except (AppError, RequestValidationError) as exc:
        details: Any = as_app_error(exc).details
        return {each["field"]: each["message"] for each in details}
    return {}


@pytest.mark.fault("F-24e")
@pytest.mark.parametrize("name", sorted(bodies()))
def test_every_rule_of_a_body_is_told_with_its_limit(name: str) -> None:
    model = bodies()[name]
    schema = model.model_json_schema()
    for wrong in broken(schema, schema.get("$defs", {})):
        field = ".".join(map(str, wrong.at)) or "body"
        said = told(model, _with(wrong))
        heard = [message for at, message in said.items() if at == field or at.startswith(f"{field}.")]
        if wrong.words:
            assert wrong.words in heard, (wrong, said)
        for message in said.values():
            assert message != OTHER_FORM, (wrong, said)
            assert message[:1].islower(), (wrong, said)
            assert not any(sign in message for sign in ("^", "\\", "Input", "pydantic", "regex")), (wrong, said)


@pytest.mark.fault("F-24e")
@pytest.mark.parametrize(
    ("name", "member", "value", "words"),
    [
        ("PatchProfile", "avatar", "http://x", "must be an https:// address without blanks"),
        ("PatchProfile", "name", "a\nb", WORDS),
        ("PatchProfile", "email", "x" * 5, "must be an e-mail address such as name@example.com"),
        ("CreateDeviceRequest", "serial_number", "a b", "must be 1 to 64 letters of ASCII, digits, _ or -"),
        ("CreateDeviceRequest", "ip", "x", "must be an IPv4 or IPv6 address"),
        ("CreateDeviceRequest", "csr", "x", "must be a certificate signing request in PEM"),
        ("SendCommandRequest", "command", "1", "must be a letter of ASCII, then up to 63 letters, digits or _.:-"),
        ("CreateTaskBody", "priority", 11, "must be at most 9"),
    ],
)
def test_rules_are_told_in_words_and_not_in_patterns(name: str, member: str, value: object, words: str) -> None:
    assert told(bodies()[name], {member: value})[member] == words


@pytest.mark.fault("F-24h")
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("Register", {"email": "x@", "password": "x", "name": "", "locale": "xx"}),
        ("Register", {"email": "ä@example.com", "password": "password", "name": "\n"}),
        ("PatchProfile", {"email": "x y", "name": "", "avatar": "ftp://x"}),
        ("InviteRequest", {"email": "ünï@example.net", "role": "king"}),
        ("ForgotPassword", {"email": "nobody", "more": 1}),
        ("CreateDeviceRequest", {"name": "", "model": "x", "mac": "x", "serial_number": "", "csr": "x"}),
    ],
)
def test_all_wrong_members_are_told_at_once(name: str, body: dict[str, str]) -> None:
    assert set(told(bodies()[name], body)) == set(body)


LONG = "/" + "/".join(["x" * 200] * 4)
ACROSS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "ChangeUser": [({}, "role"), ({"role": None, "disabled": None}, "role")],
    "ChangeScheduleBody": [
        ({"cron": "0 9 * * *", "at": "2030-01-01T00:00:00Z"}, "at"),
        ({"run": {}}, "run.message"),
    ],
    "CreateScheduleBody": [
        ({"cron": None, "at": None}, "cron"),
        ({"cron": "0 9 * * *", "at": "2030-01-01T00:00:00Z"}, "at"),
        ({"cron": "0 9 * * *", "run": {}}, "run.message"),
    ],
    "CreateDirectoryRequest": [({}, "name"), ({"path": "//"}, "name"), ({"path": LONG, "name": "y" * 255}, "path")],
    "CreateRolloutBody": [({}, "device_ids"), ({"tag": "a", "all": True}, "device_ids")],
    "CreateTaskBody": [
        ({"subtasks": [{"title": "a", "ref": "a"}, {"title": "b", "ref": "a"}]}, "subtasks.1.ref"),
        ({"subtasks": [{"title": "a", "dependencies": ["b"]}]}, "subtasks.0.dependencies.0"),
        ({"subtasks": [{"title": "a", "ref": "a", "dependencies": ["a"]}]}, "subtasks.0.dependencies"),
        ({"subtasks": [{"title": ""}, {"title": "b", "dependencies": ["b"]}]}, "subtasks.1.dependencies.0"),
    ],
    "InviteRequest": [({}, "user_id"), ({"user_id": "u", "email": "a@example.com"}, "email")],
    "MoveDirectoryRequest": [({}, "path"), ({"path": None, "name": None}, "path")],
    "CreateProvisioningClaimBody": [({}, "serial_numbers"), ({"serial_numbers": ["s"], "csv": "serial_number"}, "csv")],
    "OfferDeviceBody": [({}, "user_id"), ({"user_id": "u", "email": "a@example.com"}, "email")],
    "SendBulkCommandBody": [
        ({"tag": None, "device_ids": None}, "tag"),
        ({"tag": "north", "device_ids": ["01a22bf7-34a9-7998-99f2-44ee9ebd712b"]}, "device_ids"),
    ],
    "Register": [
        ({"password": "Greenhouse-1", "name": "Greenhouse"}, "password"),
        ({"password": "greenhouse1", "email": "greenhouse@example.com"}, "password"),
        ({"password": "password1"}, "password"),
    ],
    "StartRunBody": [({}, "message"), ({"message": "a", "messages": [{}]}, "messages")],
}
"""By body, members that break a rule across fields, each right by itself, and the field of which that is told."""


@pytest.mark.fault("F-24h")
def test_rules_across_fields_are_where_they_are_asked_with_all_others() -> None:
    """A validator of a whole model is not asked once a field is wrong, and neither is a route."""
    assert {name for name, model in bodies().items() if "across" in vars(model)} == ACROSS.keys()
    assert [name for name, model in bodies().items() if model.__pydantic_decorators__.model_validators] == []
    assert [*routes_raising("ValidationFailed")] == []


def routes_raising(error: str) -> Iterator[str]:
    for each in pkgutil.iter_modules(routes.__path__):
        module = importlib.import_module(f"api.routes.{each.name}")
        if error in vars(module):
            yield each.name


@pytest.mark.fault("F-24h")
@pytest.mark.parametrize(
    ("name", "across", "field"), [(name, *case) for name, cases in ACROSS.items() for case in cases]
)
def test_a_rule_across_fields_is_told_with_each_wrong_one(name: str, across: dict[str, Any], field: str) -> None:
    model = bodies()[name]
    alone = told(model, across)[field]
    assert alone[:1].islower()
    schema = model.model_json_schema()
    tried = 0
    for wrong in broken(schema, schema.get("$defs", {})):
        if wrong.value is ... or {*wrong.at[:1]} & {*across, *_DECIDING.get(name, ())}:
            continue
        place, body = ".".join(map(str, wrong.at)), _with(wrong)
        if not isinstance(body, dict) or place not in told(model, body):
            continue
        said = told(model, {**body, **across})
        assert (said.get(field), place in said) == (alone, True), (wrong, said)
        tried += 1
    assert tried


_DECIDING = {
    "ChangeScheduleBody": ("cron", "at", "run"),
    "CreateScheduleBody": ("cron", "at", "run"),
    "ChangeUser": ("role", "disabled"),
    "InviteRequest": ("user_id", "email"),
    "MoveDirectoryRequest": ("path", "name"),
    "OfferDeviceBody": ("user_id", "email"),
    "CreateProvisioningClaimBody": ("serial_numbers", "csv"),
    "CreateDirectoryRequest": ("name", "path"),
    "CreateRolloutBody": ("device_ids", "tag", "all"),
    "StartRunBody": ("message", "messages", "resume"),
}
"""Members that, when they are given in whatever form, decide whether the rule is broken."""


@pytest.mark.fault("F-24h")
@pytest.mark.parametrize("name", sorted(ACROSS))
@pytest.mark.parametrize(
    "value", [None, 1, "", "x", [], [1], {}, {"x": 1}, True, [{"ref": 1, "dependencies": 2}], [[]]]
)
def test_a_rule_across_fields_reads_members_of_any_form(name: str, value: object) -> None:
    model = bodies()[name]
    members = model.model_json_schema()["properties"]
    told(model, dict.fromkeys(members, value))
    for member in members:
        told(model, {member: value})


MARKS = "a" + "\N{COMBINING ACUTE ACCENT}" * 50_000 + "\N{COMBINING DOT BELOW}" * 50_000
FINE = "Käse-Brücke über Fluß 7Q"
LONGEST_COMPOSED = 4096
"""Characters of the longest text that a rule across fields may compose."""


@pytest.mark.fault("F-25h")
@pytest.mark.parametrize("model", bodies().values(), ids=bodies())
@pytest.mark.parametrize(
    "long", [MARKS, [MARKS], [{"ref": MARKS, "dependencies": [MARKS]}]], ids=["text", "list", "graph"]
)
def test_no_rule_across_fields_composes_a_text_whose_length_was_not_checked(
    model: type[Body], long: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composing takes time by the square of the marks, so the longest text that is composed bounds the time."""
    composed: list[int] = []
    compose = unicodedata.normalize

    def counted(form: Any, text: str) -> str:
        composed.append(len(text))
        return compose(form, text) if len(text) <= LONGEST_COMPOSED else text

    monkeypatch.setattr(unicodedata, "normalize", counted)
    names = [field.alias or name for name, field in model.model_fields.items()]
    model.across(dict.fromkeys(names, long))
    for name in names:
        model.across({name: long})
        model.across({**dict.fromkeys(names, FINE), name: long})
    assert max(composed, default=0) <= LONGEST_COMPOSED

"""Observation of the requests between the repositories' client and the database, and of their answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

from karma.core import aws

Params = Mapping[str, Any]
_KEYS = {"INSERT": ("'pk'", "'sk'"), "UPDATE": ('"pk" = ?', '"sk" = ?')}
_SINGLE = {"PutItem": "Put", "UpdateItem": "Update", "DeleteItem": "Delete"}


@dataclass(frozen=True)
class Write:
    """One write, or check, that has a condition."""

    kind: str
    table: str
    pk: str
    sk: str

    @classmethod
    def of(cls, kind: str, params: Params) -> Write:
        """Return the write of a request's parameters."""
        where = params["Item"] if kind == "Put" else params["Key"]
        return cls(kind, params["TableName"], where["pk"]["S"], where["sk"]["S"])

    @classmethod
    def of_statement(cls, sent: Params) -> Write:
        """Return the write of a PartiQL statement, which always has a condition."""
        text, values = sent["Statement"], sent["Parameters"]
        found = re.match(r'(INSERT|UPDATE)(?: INTO)? "([^"]+)" ', text)
        assert found is not None, text
        pk, sk = (values[text[: text.index(name)].count("?")]["S"] for name in _KEYS[found[1]])
        return cls("Put" if found[1] == "INSERT" else "Update", found[2], pk, sk)

    @property
    def label(self) -> str:
        """Return its operation and key without ids: `Put USER#* PROFILE`."""
        return f"{self.kind} {_shape(self.pk)} {_shape(self.sk)}"


def _shape(key: str) -> str:
    return "#".join(part if re.fullmatch(r"[A-Z]+", part) else "*" for part in key.split("#"))


@dataclass
class Wire:
    """The requests of one call, in order, with the codes of the answers."""

    before: Callable[[int, str, Params], None] = lambda _number, _operation, _params: None
    """Called with number, operation and parameters before a request is sent."""
    answer: Callable[[int, str, Params], dict[str, Any] | None] = lambda _number, _operation, _params: None
    """Answers in the database's place, in the form that botocore parses; an error counts as the last attempt of the
    SDK."""
    after: Callable[[int, dict[str, Any]], None] = lambda _number, _answer: None
    requests: list[tuple[str, Params]] = field(default_factory=list)

    def conditions(self) -> Iterator[tuple[int, int, Write]]:
        """Yield the writes that have conditions: number of the request, position in its transaction, and the write."""
        for number, (operation, params) in enumerate(self.requests):
            if operation == "TransactWriteItems":
                for position, each in enumerate(params["TransactItems"]):
                    [(kind, write)] = each.items()
                    if "ConditionExpression" in write:
                        yield number, position, Write.of(kind, write)
            elif operation in _SINGLE and "ConditionExpression" in params:
                yield number, 0, Write.of(_SINGLE[operation], params)
            elif operation == "ExecuteStatement":
                yield number, 0, Write.of_statement(params)
            elif operation == "BatchExecuteStatement":
                for position, each in enumerate(params["Statements"]):
                    yield number, position, Write.of_statement(each)

    def _send(self, params: Params, model: Any, **_: object) -> None:
        self.requests.append((model.name, params))
        self.before(len(self.requests) - 1, model.name, params)

    def _answer(self, model: Any, **_: object) -> tuple[Any, dict[str, Any]] | None:
        number = len(self.requests) - 1
        parsed = self.answer(number, model.name, self.requests[number][1])
        if parsed is None:
            return None
        status = HTTPStatus.BAD_REQUEST if "Error" in parsed else HTTPStatus.OK
        return SimpleNamespace(status_code=status), {"ResponseMetadata": {}, **parsed}

    def _answered(self, parsed: dict[str, Any], **_: object) -> None:
        self.after(len(self.requests) - 1, parsed)


@contextmanager
def on(wire: Wire) -> Iterator[Wire]:
    """Watch the process's client."""
    events: Any = aws.client("dynamodb").meta.events  # its stubs know none of these
    hooks = {
        "provide-client-params.dynamodb": wire._send,
        "before-call.dynamodb": wire._answer,
        "after-call.dynamodb": wire._answered,
    }
    for name, hook in hooks.items():
        events.register(name, hook)
    try:
        yield wire
    finally:
        for name, hook in hooks.items():
            events.unregister(name, hook)


def error(code: str, **more: Any) -> dict[str, Any]:
    """Return an error in the form that botocore parses."""
    return {"Error": {"Code": code, "Message": "as AWS says it"}, **more}

"""Each condition that a repository sends refuses in its turn, and each request meets a busy database.

golden/refusals.json says what the caller is told for each condition. After a change that is meant:
REWRITE=1 .venv/bin/pytest tests/contract/stores/test_refusals.py -k ministack
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from karma.core.errors import AppError
from karma.realtime.domain import MAX_OPEN
from tests.support import contexts
from tests.support.sampled_stores import IS_WHOLE
from tests.support.seeds import dice
from tests.support.stores import Database, Engine
from tests.support.wire import Params, Wire, Write, error, on

SCENARIOS = contexts.scenarios()
GOLDEN = Path(__file__).parent / "golden" / "refusals.json"
REWRITE = bool(os.environ.get("REWRITE"))
NEVER = "cannot be refused"
BUSY = "ProvisionedThroughputExceededException"
TOLD_OTHERWISE = {
    "ApiKeyRepository.note_use": "None",  # a key is not refused because its use cannot be noted
    # Each is written alone then.
    "DeviceRepository.freshen_each": "an answer",
    "TelemetryRepository.store_new": "an answer",
}
FOREIGN: dict[str, Any] = (
    {
        name: {"S": "somebody else's"}
        for name in (
            "user_id",
            "device_id",
            "file_id",
            "agent_id",
            "state",
            "status",
            "attempt",
            "email",
            "writer",
            "certificate_id",
        )
    }
    | {
        name: {"N": "9999999999999"}
        for name in (
            "version",
            "revision",
            "expires_at",
            "project",
            "avatar",
            "full_at_ms",
            "entries",
            "made",
            "names",
            "commands",
            "releases",
            "marks_version",
        )
    }
    | {"type": {"S": "email_guard"}}
    | {"open_ids": {"SS": [f"9999999999999#{each}" for each in range(MAX_OPEN)]}}
    | {f"place_{each}": {"S": "9999999999999#somebody else's"} for each in range(2)}
)
"""Attribute values that satisfy no condition on an own item."""


def told(call: Callable[[], object]) -> str:
    """Return the result that a caller sees: an error's name, a truth value, None, or that there is something."""
    try:
        answer = call()
    except AppError as exc:
        return type(exc).__name__
    except Exception as exc:
        if type(exc).__module__.startswith("karma."):
            return type(exc).__name__
        raise
    return str(answer) if answer is None or isinstance(answer, bool) else "an answer"


@dataclass
class Meddler:
    """Makes one condition false just before it is sent: by a foreign item in its place, or by removing the item."""

    database: Database
    target: tuple[int, int, Write]
    with_foreign: bool
    answer: dict[str, Any] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    before: list[Any] = field(default_factory=list)
    after: list[Any] = field(default_factory=list)

    def sent(self, number: int, operation: str, params: Params) -> None:
        if number != self.target[0]:
            return
        here = list(Wire(requests=[(operation, params)]).conditions())
        [write] = [write for _, position, write in here if position == self.target[1]]
        assert write.label == self.target[2].label
        key = {"pk": {"S": write.pk}, "sk": {"S": write.sk}}
        if self.with_foreign:
            self.database.client.put_item(TableName=write.table, Item={**key, **FOREIGN})
        else:
            self.database.client.delete_item(TableName=write.table, Key=key)
        self.tables = {write.table for _, _, write in here}
        self.before = self._everything()

    def answered(self, number: int, answer: dict[str, Any]) -> None:
        if number == self.target[0]:
            self.answer = answer
            self.after = self._everything() if "Error" in answer else []

    def check(self) -> bool:
        """Tell whether that condition refused; make sure that no other did and nothing was written."""
        if "Responses" in self.answer:  # of statements, each of which is refused by itself
            codes = [each.get("Error", {}).get("Code") for each in self.answer["Responses"]]
            mine = codes.pop(self.target[1])
            assert not any(codes)
            return mine is not None
        code = self.answer.get("Error", {}).get("Code")
        if code is None:
            return False
        assert self.before == self.after
        if code == "TransactionCanceledException":
            reasons = [reason["Code"] for reason in self.answer["CancellationReasons"]]
            mine = self.target[1]
            assert reasons == ["ConditionalCheckFailed" if at == mine else "None" for at in range(len(reasons))]
        else:
            assert code == "ConditionalCheckFailedException"
        return True

    def _everything(self) -> list[Any]:
        scan = self.database.client.scan
        return [scan(TableName=table, ConsistentRead=True)["Items"] for table in sorted(self.tables)]


def refused(database: Database, name: str, target: tuple[int, int, Write]) -> str:
    """Make a call of which one condition is false; return the result that the caller sees."""
    is_put = target[2].kind == "Put"
    for with_foreign in (is_put, not is_put):
        call = SCENARIOS[name]()
        meddler = Meddler(database, target, with_foreign)
        with on(Wire(before=meddler.sent, after=meddler.answered)):
            outcome = told(call)
        if meddler.check():
            return outcome
    return NEVER


def _golden() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    return found


@pytest.mark.parametrize("name", SCENARIOS if REWRITE else sorted(_golden()))
def test_each_condition_refuses_by_itself(database: Database, name: str) -> None:
    wire = Wire()
    call = SCENARIOS[name]()
    with on(wire):
        told(call)
    found: dict[str, str] = {}
    for at in list(wire.conditions()):
        label = at[2].label
        while label in found:
            label += " again"
        found[label] = refused(database, name, at)
    if REWRITE and database.engine is Engine.MINISTACK:
        kept = {**_golden(), name: found}
        kept = {each: answers for each, answers in kept.items() if each in SCENARIOS and answers}
        GOLDEN.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    assert _golden().get(name, {}) == found


def test_the_other_methods_send_no_conditions(database: Database) -> None:
    unknown = set()
    for name in SCENARIOS.keys() - _golden().keys():
        wire = Wire()
        call = SCENARIOS[name]()
        with on(wire):
            told(call)
        assert wire.requests
        unknown |= {name for _ in wire.conditions()}
    assert unknown == set()
    assert _golden().keys() <= SCENARIOS.keys()


@pytest.mark.parametrize("database", [Engine.MINISTACK], ids=str, indirect=True)  # the answers are no engine's
@pytest.mark.parametrize("kind", sorted({name.partition(".")[0] for name in SCENARIOS}))
def test_each_request_may_meet_a_busy_database(database: Database, kind: str) -> None:
    for name in SCENARIOS:
        if name.startswith(f"{kind}."):
            _meet_busy(database, name)


def _meet_busy(database: Database, name: str) -> None:
    wire = Wire()
    call = SCENARIOS[name]()
    with on(wire):
        told(call)
    expected = TOLD_OTHERWISE.get(name, "StorageThrottled")
    assert wire.requests
    first = {operation: number for number, (operation, _) in reversed(list(enumerate(wire.requests)))}
    for operation, number in first.items():
        params = wire.requests[number][1]
        answers = _busy(operation, params)
        # One of several by the run's dice; STORES=all gives each.
        for answer in answers if IS_WHOLE else dice("busy", name, operation).sample(answers, k=1):
            call = SCENARIOS[name]()

            def busy(
                n: int, _: str, __: Params, number: int = number, answer: dict[str, Any] = answer
            ) -> dict[str, Any] | None:
                return answer if n == number else None

            with on(Wire(answer=busy)):
                assert told(call) == expected, f"{name}, request {number}, {operation}"


def _busy(operation: str, params: Params) -> list[dict[str, Any]]:
    if operation != "TransactWriteItems":
        return [error(BUSY)]
    count = len(params["TransactItems"])
    answers = [error(BUSY)]
    for position in (0, count - 1):
        reasons = [{"Code": "ThrottlingError" if at == position else "None"} for at in range(count)]
        answers.append(error("TransactionCanceledException", CancellationReasons=reasons))
    return answers

"""Crash tests: a handler's process dies at every AWS call in turn, and a redelivery must repair it.

    def test_survives_a_crash_anywhere(stack, sqs_event):
        stack.use("device_ingest")                       # the environment is inherited by the child
        test = CrashTest(
            entry="device_ingest.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["devices"], stack.tables["telemetry"]],
            seed=lambda: (put_device(), sqs_event([...]))[1],
        )
        report = test.run()
        assert report.points >= 4

For n = 1, 2, ...: the tables are emptied, `seed` writes the start and returns the event, a process gets the event and
is ended by `os._exit` just after its n-th answer came; then a clean process gets the same event. The final tables must
equal those of a run without a crash.

A death after one answer and one before the next request leave the same behind, unless something else than AWS was asked
in between or requests run side by side. A death after an answer that only read leaves what the last change before it
left. So a death after each change is tried, and one of all others by the run's dice (seeds.py). All of them are where
others are asked, and with CRASHES=all: n then grows until the handler finishes before it reaches call n. A failure
names the death.

What a process is, and what an entry, says `crash_processes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support import on_demand
from tests.support.crash_processes import Death, Outcome, Processes, Side
from tests.support.seeds import dice

_MOST_AT_ONCE = 25
"""Items of one BatchWriteItem."""
_READS = ("BatchGet", "Describe", "Get", "Head", "List", "Query", "Scan", "TransactGet")
"""Beginnings of the names of operations that leave everything as it was."""


class AwsClients(Protocol):
    """The `aws` fixture: returns a boto3 client of the test's account, by service name."""

    def __call__(self, service: str, /) -> Any: ...


@dataclass
class CrashReport:
    """Report of `CrashTest.run`."""

    calls: tuple[str, ...] = ()
    """Requests of the run without a crash."""
    points: int = 0
    """Number of deaths that were tried, or that leave behind what one of those does."""
    at: list[str] = field(default_factory=list)
    """`before dynamodb.PutItem (#3)`, ... one a process that died."""


class CrashTest:
    """Runs a handler to a crash at each of its AWS calls, then again; compares the tables in the end."""

    def __init__(
        self,
        *,
        entry: str,
        aws: AwsClients,
        tables: Iterable[str],
        seed: Callable[[], Any],
        redeliver: Callable[[Any], Any] = lambda event: event,
        normalise: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda item: item,
        ignore: Iterable[str] = ("version", "created_at", "updated_at"),
        other_state: Callable[[], Any] = lambda: None,
        accept: Callable[[Any], bool] = lambda _response: True,
        max_calls: int = 60,
        asks_others: bool = False,
        count_alike: bool = True,
    ) -> None:
        """Describe the test.

        Args:
            entry: `module:function` or `file.py:function`.
            aws: client factory of the account that holds the tables.
            tables: names of the tables to empty, to seed and to compare.
            seed: writes the start state into empty tables and returns the event.
            redeliver: makes the second event from the first (default: the same).
            normalise: changes or drops (None) an item, in plain Python values, before comparison.
            ignore: attributes that may differ between the two ends.
            other_state: returns further state that must be equal (messages of a queue, things of IoT) after each end.
            accept: tells whether the answer to a clean delivery is a success (SQS: no batchItemFailures).
            max_calls: fails when the handler makes more requests than this.
            asks_others: it asks somebody else than AWS as well, so that all deaths before a request are tried.
            count_alike: of items to which `normalise` gives the same key as many must be there as without a crash;
                False where a redelivery may rightly leave more or fewer: then one of them stands for all.
        """
        self._entry = entry
        self._aws = aws
        self._tables = tuple(tables)
        self._seed = seed
        self._redeliver = redeliver
        self._normalise = normalise
        self._ignore = frozenset(ignore)
        self._other_state = other_state
        self._accept = accept
        self._max_calls = max_calls
        self._asks_others = asks_others
        self._count_alike = count_alike

    def run(self) -> CrashReport:
        """Crash everywhere; raises AssertionError at the first final state that differs."""
        report = CrashReport()
        with Processes(self._entry) as processes:
            self._empty()
            clean = processes.run(self._seed())
            self._assert_finished(clean, "without a crash", processes)
            expected = self._state()
            report.calls = clean.calls
            if self._is_whole():
                self._die_everywhere(processes, clean, expected, report)
            else:
                deaths = self._deaths(clean)
                for death in deaths:
                    self._die(processes, death, expected, report)
                report.points += len(clean.answers) - [side for side, *_ in deaths].count("after")
        assert report.at, f"{self._entry} makes no AWS call: nothing was tested"
        return report

    def _is_whole(self) -> bool:
        return self._asks_others or os.environ.get("CRASHES") == "all"

    def _die_everywhere(self, processes: Processes, clean: Outcome, expected: Any, report: CrashReport) -> None:
        for n in range(1, self._max_calls + 2):
            assert n <= self._max_calls, f"{self._entry} still dies at call {n}"
            if not self._die(processes, ("after", "", n), expected, report):
                break
        for n in range(1, len(clean.calls) + 1):
            self._die(processes, ("before", "", n), expected, report)

    def _deaths(self, clean: Outcome) -> list[Death]:
        """Return the deaths after each answer to a change, and one of the others."""
        assert len(clean.answers) < self._max_calls, f"{self._entry} gets {len(clean.answers)} answers"
        after = _numbered("after", clean.answers)
        changes = [each for each in after if not each[1].partition(".")[2].startswith(_READS)]
        others = [*(each for each in after if each not in changes), *_numbered("before", clean.calls)]
        return [*changes, *dice(Path(self._entry).name, clean.calls).sample(others, k=min(len(others), 1))]

    def _die(self, processes: Processes, death: Death, expected: Any, report: CrashReport) -> bool:
        """Try one death; False when the handler did not come to it."""
        self._empty()
        event = self._seed()
        first = processes.run(event, die=death)
        if not first.crashed:
            self._assert_finished(first, f"that did not come to {death}", processes)
            return False
        names = first.calls if death[0] == "before" else first.answers
        where = f"{death[0]} {names[-1]} (#{len(names)})"
        second = processes.run(self._redeliver(event))
        self._assert_finished(second, f"after a crash {where}", processes)
        found = self._state()
        assert found == expected, f"crash {where}: redelivery ended in another state: {found!r} instead of {expected!r}"
        report.points += 1
        report.at.append(where)
        return True

    def _assert_finished(self, outcome: Outcome, what: str, processes: Processes) -> None:
        if outcome.error:
            raise AssertionError(f"the delivery {what} raised:\n{outcome.error}\n{processes.log()}")
        if not self._accept(outcome.response):
            raise AssertionError(f"the delivery {what} answered {outcome.response!r}\n{processes.log()}")

    def _state(self) -> Any:
        from boto3.dynamodb.types import TypeDeserializer

        read = TypeDeserializer().deserialize
        state: dict[str, list[dict[str, Any]]] = {}
        for table in self._tables:
            for raw in self._scan(table):
                plain = {name: read(value) for name, value in raw.items() if name not in self._ignore}
                item = self._normalise(plain)
                if item is not None:
                    state.setdefault(f"{table} {item.get('pk')} {item.get('sk')}", []).append(item)
        for items in state.values():
            if not self._count_alike:
                del items[:-1]
            items.sort(key=lambda item: repr(sorted(item.items())))
        return state, self._other_state()

    def _empty(self) -> None:
        dynamodb = self._aws("dynamodb")
        for table in self._tables:
            keys = [{"pk": item["pk"], "sk": item["sk"]} for item in self._scan(table)]
            for at in range(0, len(keys), _MOST_AT_ONCE):
                asked = {table: [{"DeleteRequest": {"Key": key}} for key in keys[at : at + _MOST_AT_ONCE]]}
                answer = dynamodb.batch_write_item(RequestItems=asked)
                assert not answer["UnprocessedItems"]

    def _scan(self, table: str) -> Iterator[dict[str, Any]]:
        if on_demand.is_owed(table):
            return
        pages = self._aws("dynamodb").get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        for page in pages:
            yield from page["Items"]


def _numbered(side: Side, names: Sequence[str]) -> list[Death]:
    """Return the places on a side of each of these, by its name and its number among its like."""
    return [(side, name, names[: at + 1].count(name)) for at, name in enumerate(names)]

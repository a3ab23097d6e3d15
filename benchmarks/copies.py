"""Copies of an account's rows under other keys, so that a table of many items has the sizes of a real one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.account import BATCHES_SHOWN, Account, Attributes
from karma.core.clock import epoch_ms
from karma.core.ids import new_id

_BATCH = 25


class Copies:
    """The copies of one account's rows."""

    def __init__(self, account: Account, client: Any, tables: Mapping[str, str]) -> None:
        self._account = account
        self._first = account.first
        self._client = client
        self._tables = tables
        self._filled = 0

    def fill(self, items: int) -> None:
        """Let each table have about that many items; never fewer than before."""
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(self._write, _packets(self._copies(self._filled, items))):
                pass
        self._filled = items
        self._count(items)

    def _copies(self, low: int, high: int) -> Iterator[tuple[str, Attributes]]:
        """Yield the copies for positions `low` to `high` of each table, as (table, item)."""
        first = self._first
        for number in range(low, high):
            yield from self._copies_in_telemetry(number)
            yield "billing", first.copy("billing", first.event_id, f"{first.event_id[:-9]}{number:09d}")
            if number % 2 == 0:
                yield "agents", self._segment(number // 2 + 2)
                yield from first.family("identity", f"USER#{first.user_id}", {first.user_id: new_id()})
            if number % 4 == 0:
                moment = epoch_ms(datetime.now(UTC))
                yield from first.family("agents", f"AGENT#{first.agent_id}", {first.agent_id: new_id()})
                yield from first.family("agents", f"#{first.run_id}", {first.run_id: new_id()}, beside="SEG#")
                yield from first.family("agents", f"#{first.thread_id}", {first.thread_id: new_id()})
                yield "devices", first.copy("devices", first.command_id, new_id(), sort="CMD#")
                yield "devices", self._letter(moment - number)
            if number % 8 == 0:
                yield from first.family(
                    "devices", f"#{first.alarm_id}", {first.alarm_id: new_id(), first.rule_id: new_id()}
                )
                yield from first.family("telemetry", f"EXPORT#{first.export_id}", {first.export_id: new_id()})
                changed = {first.device_id: new_id(), first.serial: f"EOS-CLONE-{number:06d}"}
                yield from first.family("devices", f"DEVICE#{first.device_id}", changed)
                yield from first.family("devices", f"THING#{first.serial}", changed)
                yield from first.family("agents", f"AVATAR#{first.avatar_id}", {first.avatar_id: new_id()})
                yield from first.family("work", f"PROJECT#{first.project_id}", {first.project_id: new_id()})
                yield from first.family("work", f"TASK#{first.task_id}", {first.task_id: new_id()})

    def _copies_in_telemetry(self, number: int) -> Iterator[tuple[str, Attributes]]:
        if number < BATCHES_SHOWN:
            return  # stand there already
        item = self._first.batches[number % BATCHES_SHOWN]
        day = f"{self._account.day - timedelta(days=1 + number // BATCHES_SHOWN):%Y-%m-%d}"
        yield "telemetry", {**item, "pk": {"S": f"DEV#{self._first.device_id}#{day}"}}

    def _segment(self, n: int) -> Attributes:
        item = self._first.of("agents", "SEG#")
        return {**item, "sk": {"S": f"SEG#{n:08d}"}}

    def _letter(self, received_ms: int) -> Attributes:
        item = self._first.of("devices", "DEAD#")
        return {**item, "sk": {"S": f"DEAD#{received_ms:013d}#{new_id()[-16:]}"}}

    def _write(self, packet: list[tuple[str, Attributes]]) -> None:
        asked: dict[str, Any] = {}
        for name, item in packet:
            asked.setdefault(self._tables[name], []).append({"PutRequest": {"Item": item}})
        while asked:
            asked = self._client.batch_write_item(RequestItems=asked)["UnprocessedItems"]

    def _count(self, items: int) -> None:
        """Set the counters, since the router, which would update them, does not run here."""
        counters = (
            ("devices", "COUNTER#devices", "device_counter", items // 8),
            ("agents", "COUNTER#runs", "run_counter", items // 4),
            ("agents", "COUNTER#avatars", "avatar_counter", items // 8),
            ("work", "COUNTER#tasks", "task_counter", items // 8),
        )
        for table, sk, kind, value in counters:
            owner = {"avatar_counter": "AVATARS", "task_counter": "TASKS"}.get(kind, "USER")
            item = {"pk": {"S": f"{owner}#{self._first.user_id}"}, "sk": {"S": sk}, "type": {"S": kind}}
            numbers = {"value": {"N": str(value)}, "schema": {"N": "1"}, "version": {"N": "1"}}
            self._client.put_item(TableName=self._tables[table], Item={**item, **numbers})


def _packets(items: Iterable[tuple[str, Attributes]]) -> Iterator[list[tuple[str, Attributes]]]:
    rest = iter(items)
    while packet := list(itertools.islice(rest, _BATCH)):
        yield packet

"""Old items become new ones in batches, once each, also when the run dies half-way."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from karma.core import aws as core_aws
from karma.core.migrate import Attributes, MigrationStep, Migrator
from tests.integration.core.migrate_entry import SPLIT, join_name, read_name, split_name
from tests.support.crash import CrashTest

ENTRY = f"{Path(__file__).with_name('migrate_entry.py')}:migrate"


ITEMS = 230
NAMES = {"Ada Lovelace", "Alan Turing", "Grace Hopper"}


def owner(number: int, name: str) -> Attributes:
    return {
        "pk": {"S": f"OWNER#{number:04d}"},
        "sk": {"S": "META"},
        "type": {"S": "owner"},
        "schema": {"N": "1"},
        "version": {"N": "7"},
        "name": {"S": name},
    }


@pytest.fixture
def table(account: str, tables: dict[str, str], aws: Callable[[str], Any]) -> str:
    for number in range(ITEMS):
        aws("dynamodb").put_item(TableName=tables["devices"], Item=owner(number, f"first{number} last{number}"))
    return tables["devices"]


def migrator(table: str, *steps: MigrationStep) -> Migrator:
    return Migrator(core_aws.client("dynamodb"), {"devices": table}, steps)


@pytest.mark.req("R-K-03")
def test_items_go_up_and_down_again(table: str) -> None:
    subject = migrator(table, SPLIT)
    assert [report.rewritten for report in subject.up()] == [ITEMS]
    assert subject.status() == {"devices": {("owner", 2): ITEMS}}
    assert [report.rewritten for report in subject.up()] == [0]
    assert [report.rewritten for report in subject.down()] == [ITEMS]
    assert subject.status() == {"devices": {("owner", 1): ITEMS}}


def test_a_run_that_died_goes_on_where_it_stopped(table: str) -> None:
    calls = 0

    def dying(item: Attributes) -> Attributes:
        nonlocal calls
        calls += 1
        if calls == 150:
            raise KeyboardInterrupt
        return split_name(item)

    with pytest.raises(KeyboardInterrupt):
        list(migrator(table, MigrationStep(table="devices", type="owner", schema=2, up=dying, down=join_name)).up())
    assert [report.rewritten for report in migrator(table, SPLIT).up()] == [ITEMS - 149]
    assert migrator(table).status() == {"devices": {("owner", 2): ITEMS}}


def test_an_item_that_changed_meanwhile_is_left_for_the_next_run(table: str, aws: Callable[[str], Any]) -> None:
    def racing(item: Attributes) -> Attributes:
        if item["pk"]["S"] == "OWNER#0003":
            aws("dynamodb").update_item(
                TableName=table,
                Key={"pk": item["pk"], "sk": item["sk"]},
                UpdateExpression="ADD #version :one",
                ExpressionAttributeNames={"#version": "version"},
                ExpressionAttributeValues={":one": {"N": "1"}},
            )
        return split_name(item)

    step = MigrationStep(table="devices", type="owner", schema=2, up=racing, down=join_name)
    assert [(report.rewritten, report.skipped) for report in migrator(table, step).up()] == [(ITEMS - 1, 1)]
    assert [(report.rewritten, report.skipped) for report in migrator(table, SPLIT).up()] == [(1, 0)]


@pytest.mark.req("R-K-03")
class TestInterrupted:
    """Two steps over three owners, two a page, ended before and after each of their calls."""

    @pytest.fixture
    def owners(self, account: str, tables: dict[str, str], aws: Callable[[str], Any]) -> Callable[[], list[Attributes]]:
        def read() -> list[Attributes]:
            items = aws("dynamodb").scan(TableName=tables["devices"], ConsistentRead=True)["Items"]
            return [item for item in items if item["type"]["S"] == "owner"]

        return read

    @pytest.fixture
    def seed(self, tables: dict[str, str], aws: Callable[[str], Any]) -> Callable[[], None]:
        def write() -> None:
            for number, name in enumerate(sorted(NAMES)):
                aws("dynamodb").put_item(TableName=tables["devices"], Item=owner(number, name))
            device = {"pk": {"S": "DEV#0"}, "sk": {"S": "META"}, "type": {"S": "device"}, "schema": {"N": "1"}}
            aws("dynamodb").put_item(TableName=tables["devices"], Item=device)

        return write

    def crash(
        self,
        owners: Any,
        tables: Mapping[str, str],
        aws: Callable[[str], Any],
        seed: Callable[[], None],
        direction: str,
    ) -> list[Attributes]:
        def seeded() -> dict[str, str]:
            seed()
            return {"table": tables["devices"], "direction": direction}

        def resume(event: dict[str, str]) -> dict[str, str]:
            assert {read_name(item) for item in owners()} == NAMES, "a reader meets both layouts"
            return event

        report = CrashTest(
            entry=ENTRY, aws=aws, tables=[tables["devices"]], seed=seeded, redeliver=resume, ignore=()
        ).run()
        assert {"dynamodb.Scan", "dynamodb.PutItem", "dynamodb.DeleteItem"} <= set(report.calls)
        assert {read_name(item) for item in owners()} == NAMES
        found: list[Attributes] = owners()
        return found

    def test_up_goes_on_to_the_newest_schema(
        self,
        owners: Callable[[], list[Attributes]],
        tables: dict[str, str],
        aws: Callable[[str], Any],
        seed: Callable[[], None],
    ) -> None:
        migrated = self.crash(owners, tables, aws, seed, "up")
        assert {item["schema"]["N"] for item in migrated} == {"3"}
        assert {item["initials"]["S"] for item in migrated} == {"AL", "AT", "GH"}

    def test_down_undoes_one_step(
        self,
        owners: Callable[[], list[Attributes]],
        tables: dict[str, str],
        aws: Callable[[str], Any],
        seed: Callable[[], None],
    ) -> None:
        def at_the_top() -> None:
            from tests.integration.core.migrate_entry import migrate

            seed()
            migrate({"table": tables["devices"], "direction": "up"}, None)

        migrated = self.crash(owners, tables, aws, at_the_top, "down")
        assert {item["schema"]["N"] for item in migrated} == {"2"}
        assert not any("initials" in item for item in migrated)

    def test_a_way_back_forgets_how_far_the_way_up_had_come(
        self,
        owners: Callable[[], list[Attributes]],
        tables: dict[str, str],
        aws: Callable[[str], Any],
        seed: Callable[[], None],
    ) -> None:
        def dying(item: Attributes) -> Attributes:
            if len([each for each in owners() if each["schema"]["N"] == "2"]) == 2:
                raise KeyboardInterrupt
            return split_name(item)

        def run(step: MigrationStep) -> Migrator:
            return Migrator(core_aws.client("dynamodb"), {"devices": tables["devices"]}, [step], page=2)

        seed()
        with pytest.raises(KeyboardInterrupt):
            list(run(MigrationStep(table="devices", type="owner", schema=2, up=dying, down=join_name)).up())
        list(run(SPLIT).down())
        list(run(SPLIT).up())
        assert {item["schema"]["N"] for item in owners()} == {"2"}

"""Two real steps over items of one table, and `karma migrate` as a process that a crash test can end."""

from typing import Any

from karma.core import aws
from karma.core.migrate import Attributes, MigrationStep, Migrator


def split_name(item: Attributes) -> Attributes:
    first, last = item.pop("name")["S"].split(" ")
    return {**item, "first": {"S": first}, "last": {"S": last}}


def join_name(item: Attributes) -> Attributes:
    first, last = item.pop("first")["S"], item.pop("last")["S"]
    return {**item, "name": {"S": f"{first} {last}"}}


def add_initials(item: Attributes) -> Attributes:
    return {**item, "initials": {"S": item["first"]["S"][0] + item["last"]["S"][0]}}


def drop_initials(item: Attributes) -> Attributes:
    return {name: value for name, value in item.items() if name != "initials"}


def read_name(item: Attributes) -> str:
    """Return the name in an item, as a repository reads every layout."""
    return str(item["name"]["S"]) if item["schema"]["N"] == "1" else f"{item['first']['S']} {item['last']['S']}"


SPLIT = MigrationStep(table="devices", type="owner", schema=2, up=split_name, down=join_name)
INITIALS = MigrationStep(table="devices", type="owner", schema=3, up=add_initials, down=drop_initials)


def migrate(event: dict[str, Any], context: object) -> dict[str, int]:
    """Run `event["direction"]`; return what each step rewrote, by its schema number."""
    tables = {"devices": event["table"]}
    migrator = Migrator(aws.client("dynamodb"), tables, (SPLIT, INITIALS), page=2)
    reports = migrator.up() if event["direction"] == "up" else migrator.down()
    return {str(report.step.schema): report.rewritten for report in reports}

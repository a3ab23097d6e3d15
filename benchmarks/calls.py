"""Measures the DynamoDB calls and units of each route, with tables of any size.

    python -m benchmarks.calls                        write docs/calls.md
    python -m benchmarks calls --items 100000         measure among that many

The API's own handler runs against DynamoDB Local; units are computed by meter.py. One user owns everything that the
lists show: a few rows are made by the routes and functions themselves (account.py), the rest are copies of them
(copies.py).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config

from benchmarks import claim_calls, search_calls, share_calls
from benchmarks.account import AVATAR, COMMAND, CONFIGURED, LIMIT, PROJECT, SCHEDULE, TASK, Account, Attributes, Step
from benchmarks.copies import Copies
from benchmarks.dynamodb_local import dynamodb_local
from benchmarks.fleet_calls import Fleet
from benchmarks.meter import Meter
from benchmarks.report import Row
from benchmarks.world import World, quiet, seeded, table_shape
from karma.core import aws
from karma.core.ids import UserId

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, DESCRIPTION = DOCS / "calls.md", DOCS / "openapi.json"
REWRITE = "python -m benchmarks.calls"
ITEMS = 100
"""Items of each table while docs/calls.md is measured; with more, the numbers are the same."""


@dataclass(frozen=True)
class Cost:
    """Calls and units of one route."""

    route: str
    calls: tuple[str, ...]
    read_units: float
    write_units: float


@contextmanager
def on_dynamodb_local(tables: Mapping[str, str]) -> Iterator[Any]:
    """Let this process's functions use DynamoDB Local, with tables of these names.

    Yields a separate client, which is not measured.

    Args:
        tables: table name by short name (`devices`).

    Raises:
        DynamoDbLocalMissing: DynamoDB Local, or Java 17, is not installed.
    """
    variable = "AWS_ENDPOINT_URL_DYNAMODB"
    with dynamodb_local() as url:
        before = os.environ.get(variable)
        os.environ[variable] = url
        aws.reset()
        config = Config(parameter_validation=False, retries={"total_max_attempts": 3}, read_timeout=30)
        client: Any = botocore.session.Session().create_client("dynamodb", config=config)
        try:
            for table in tables.values():
                client.create_table(TableName=table, **table_shape())
            yield client
        finally:
            client.close()
            aws.reset()
            if before is None:
                del os.environ[variable]
            else:
                os.environ[variable] = before


class Rows:
    """One user's data: `fill` adds to it, `costs` measures the routes."""

    def __init__(self, client: Any, tables: Mapping[str, str], serve: Callable[[Attributes, Any], Attributes]) -> None:
        """Make the first rows; `serve` is the API's handler."""
        self._client = client
        self._account = Account(client, tables, serve)
        self._fleet = Fleet(self._account)
        self._fleet.make()
        self._account.keep()
        self._copies = Copies(self._account, client, tables)
        self.call = self._account.call

    def fill(self, items: int) -> None:
        """Let each table have about that many items; never fewer than before."""
        self._copies.fill(items)

    def costs(self) -> list[Cost]:
        """Measure every route."""
        meter = Meter(aws.client("dynamodb"), lookup=self._client)
        found: list[Cost] = []
        for step in self._reads():
            self.call(step)  # from here on the caller is cached, as it is for a minute in a warm process
            found.append(self._measure(meter, step)[0])
        found += self._changes(meter)
        return found

    def filtered(self) -> Cost:
        """Measure the only kind of list that reads items which it does not show: up to 1,000 devices."""
        step = Step("GET /devices?status=offline", "GET", "/api/v1/devices", {"limit": LIMIT, "status": "offline"})
        return self._measure(Meter(aws.client("dynamodb"), lookup=self._client), step)[0]

    def _measure(self, meter: Meter, step: Step) -> tuple[Cost, Any]:
        return self._count(meter, step.route, lambda: self.call(step))

    def _count(self, meter: Meter, row: str, work: Callable[[], Any]) -> tuple[Cost, Any]:
        self._cache_caller()
        with meter.recording() as spent:
            done = work()
        return Cost(row, tuple(spent.calls), spent.read_units, spent.write_units), done

    def _cache_caller(self) -> None:
        """Cache the caller again: an older entry could expire during a measurement."""
        from api.services import identity

        identity.authenticator().forget(UserId(self._account.first.user_id))
        self.call(Step("", "GET", "/api/v1/users/me"))

    def _reads(self) -> Iterator[Step]:
        first, v1 = self._account.first, "/api/v1"
        device = f"{v1}/devices/{first.device_id}"
        yield Step("GET /users/me", "GET", f"{v1}/users/me")
        yield Step("GET /api-keys", "GET", f"{v1}/api-keys")
        yield from self._list("GET /devices", f"{v1}/devices", {})
        yield from self._list("GET /devices?sort=name", f"{v1}/devices", {"sort": "name"})
        yield Step("GET /devices/{id}", "GET", device)
        yield Step("GET /devices/{id}/latest", "GET", f"{device}/latest")
        start = self._account.day + timedelta(hours=10)
        span = {"from": start.isoformat(), "to": (start + timedelta(hours=1)).isoformat(), "metric": "temp_c"}
        yield from self._list("GET /devices/{id}/telemetry, an hour", f"{device}/telemetry", span)
        whole = {"from": self._account.day.isoformat(), "to": (self._account.day + timedelta(days=1)).isoformat()}
        one = {"metric": "temp_c"}
        yield Step("GET /devices/{id}/telemetry, a day at auto", "GET", f"{device}/telemetry", {**whole, **one})
        yield Step("GET /devices/{id}/telemetry, a day, two metrics", "GET", f"{device}/telemetry", whole)
        yield from self._list("GET /devices/{id}/commands", f"{device}/commands", {})
        yield Step("GET /devices/{id}/commands/{id}", "GET", f"{device}/commands/{first.command_id}")
        yield from self._list("GET /devices/{id}/dead-letters", f"{device}/dead-letters", {})
        yield from self._list("GET /agents", f"{v1}/agents", {})
        yield Step("GET /api/agents", "GET", "/api/agents", {"limit": LIMIT})
        yield Step("GET /agents/{id}", "GET", f"{v1}/agents/{first.agent_id}")
        yield from self._list("GET /runs", f"{v1}/runs", {})
        yield Step("GET /api/runs", "GET", "/api/runs", {"limit": LIMIT})
        yield Step("GET /runs/{id}", "GET", f"{v1}/runs/{first.run_id}")
        yield from self._list("GET /runs/{id}/checkpoints", f"{v1}/runs/{first.run_id}/checkpoints", {})
        yield Step("GET /checkpoints/{id}", "GET", f"{v1}/checkpoints/{first.checkpoint_id}")
        yield Step("GET /runs/{id}/events", "GET", f"{v1}/runs/{first.run_id}/events", {"limit": LIMIT})
        hours = {"granularity": "hour"}
        yield Step("GET /metrics/agents/{id}", "GET", f"{v1}/metrics/agents/{first.agent_id}", hours)
        yield from self._list("GET /threads", f"{v1}/threads", {})
        yield Step("GET /config", "GET", f"{v1}/config")
        yield Step("GET /config/{name}", "GET", f"{v1}/config/{CONFIGURED}")
        yield from self._list("GET /config/{name}/history", f"{v1}/config/{CONFIGURED}/history", {})
        yield from self._list("GET /notices", f"{v1}/notices", {})
        yield from self._list("GET /notices?unread=true", f"{v1}/notices", {"unread": "true"})
        yield from self._list("GET /tasks", f"{v1}/tasks", {})
        yield Step("GET /schedules", "GET", f"{v1}/schedules")
        yield Step("GET /schedules/{id}", "GET", f"{v1}/schedules/{first.schedule_id}")
        yield Step("GET /tasks/{id}", "GET", f"{v1}/tasks/{first.task_id}")
        yield Step("GET /tasks/{id}/subtasks", "GET", f"{v1}/tasks/{first.task_id}/subtasks")
        yield from self._list("GET /avatars", f"{v1}/avatars", {})
        yield Step("GET /avatars/{id}", "GET", f"{v1}/avatars/{first.avatar_id}")
        yield Step("GET /projects/{id}", "GET", f"{v1}/projects/{first.project_id}")
        yield Step("GET /plans", "GET", f"{v1}/plans")
        yield Step("GET /subscriptions/current", "GET", f"{v1}/subscriptions/current")
        yield Step("GET /usage", "GET", f"{v1}/usage")
        yield Step("GET /usage/today", "GET", f"{v1}/usage/today")
        yield Step("GET /usage/budget", "GET", f"{v1}/usage/budget")
        yield from self._list("GET /billing/inbox", f"{v1}/billing/inbox", {})
        yield from self._fleet.reads(self._list)

    def _list(self, route: str, path: str, query: Mapping[str, object]) -> Iterator[Step]:
        page = Step(route, "GET", path, {**query, "limit": LIMIT})
        yield page
        cursor = self.call(page)["next_cursor"]
        yield Step(f"{route}, next page", "GET", path, {**page.query, "cursor": cursor})

    def _changes(self, meter: Meter) -> Iterator[Cost]:
        devices = "/api/v1/devices"
        cost, made = self._measure(meter, Step("POST /devices", "POST", devices, body=self._account.device()))
        yield cost
        device = f"{devices}/{made['device']['id']}"
        yield self._measure(meter, Step("PATCH /devices/{id}", "PATCH", device, body={"name": "Renamed device"}))[0]
        for more in ("", " that changes nothing"):
            wish = {"desired": {"interval_s": 30}}
            step = Step(f"PATCH /devices/{{id}}/settings{more}", "PATCH", f"{device}/settings", body=wish)
            yield self._measure(meter, step)[0]
        for part in ("settings", "settings/changes"):
            yield self._measure(meter, Step(f"GET /devices/{{id}}/{part}", "GET", f"{device}/{part}"))[0]
        step = Step("POST /devices/{id}/commands", "POST", f"{device}/commands", body=COMMAND)
        cost, sent = self._measure(meter, step)
        yield cost
        command = f"{device}/commands/{sent['command']['id']}"
        yield self._measure(meter, Step("DELETE /devices/{id}/commands/{id}", "DELETE", command))[0]
        certificates = f"{device}/certificates"
        cost, issued = self._measure(meter, Step("POST /devices/{id}/certificates", "POST", certificates, body={}))
        yield cost
        new = f"{certificates}/{issued['credentials']['certificate_id']}"
        yield self._measure(meter, Step("DELETE /devices/{id}/certificates/{id}", "DELETE", new))[0]
        yield self._measure(meter, Step("DELETE /devices/{id}", "DELETE", device))[0]
        yield from self._imports(meter)
        yield from claim_calls.costs(partial(self._measure, meter))
        cost, made = self._measure(meter, Step("POST /agents", "POST", "/api/v1/agents", body=self._account.agent()))
        yield cost
        agent, changed = f"/api/v1/agents/{made['agent']['id']}", {**self._account.agent(), "description": "Changed"}
        yield self._measure(meter, Step("PUT /agents/{id}", "PUT", agent, body=changed))[0]
        yield self._measure(meter, Step("DELETE /agents/{id}", "DELETE", agent))[0]
        config = f"/api/v1/config/{CONFIGURED}"
        for enabled in (False, True):  # the next filling finds it as this one did
            step = Step("PUT /config/{name}", "PUT", config, body={"config": {"enabled": enabled}})
            cost, _ = self._measure(meter, step)
        yield cost
        labels = f"/api/v1/runs/{self._account.first.run_id}/checkpoints"
        label = Step(
            "POST /runs/{id}/checkpoints", "POST", labels, body={"description": f"No. {next(self._account.number)}"}
        )
        yield self._measure(meter, label)[0]
        step = Step("POST /runs", "POST", "/api/v1/runs", body={"agent_id": "karma", "message": "Hello"})
        yield self._measure(meter, step)[0]
        point = f"/api/v1/checkpoints/{self._account.ended_run()}"
        for route, what, body in (
            ("POST /checkpoints/{id}/restore, in place", "restore", {"create_new_run": False}),
            ("POST /checkpoints/{id}/fork", "fork", {"modifications": {"message": "Go on"}}),
            ("POST /checkpoints/{id}/restore, a new run", "restore", {"modifications": {"message": "Go on"}}),
        ):
            yield self._measure(meter, Step(route, "POST", f"{point}/{what}", body=body))[0]
        read = f"/api/v1/notices/{self._account.first.notice_id}/read"
        yield self._measure(meter, Step("POST /notices/{id}/read, again", "POST", read))[0]
        yield from self._changes_of_work(meter)
        yield from self._fleet.changes(partial(self._count, meter))
        yield from search_calls.costs(self._account, partial(self._count, meter))
        yield from share_calls.Shares(self._account, partial(self._count, meter)).costs()

    def _imports(self, meter: Meter) -> Iterator[Cost]:
        """Measure a list of ten devices, and take them away again."""
        made = [self._account.device() for _ in range(10)]
        columns = ("name", "model", "mac", "serial_number")
        csv = "\n".join(",".join(row) for row in [columns, *([str(each[name]) for name in columns] for each in made)])
        for route, all_or_none in (("all or none", True), ("each for itself", False)):
            step = Step(f"POST /devices/import of 10, {route}", "POST", "/api/v1/devices/import",
                        body={"csv": csv, "all_or_nothing": all_or_none})  # fmt: skip
            cost, imported = self._measure(meter, step)
            yield cost
            for each in imported["created"]:
                self.call(Step("", "DELETE", f"/api/v1/devices/{each['device_id']}"))

    def _changes_of_work(self, meter: Meter) -> Iterator[Cost]:
        cost, made = self._measure(meter, Step("POST /tasks, with two parts", "POST", "/api/v1/tasks", body=TASK))
        yield cost
        task, part = f"/api/v1/tasks/{made['task']['id']}", made["subtasks"][0]["id"]
        yield self._measure(meter, Step("PATCH /tasks/{id}", "PATCH", task, body={"title": "Other work"}))[0]
        step = Step(
            "PATCH /tasks/{id}/subtasks/{id}", "PATCH", f"{task}/subtasks/{part}", body={"status": "in_progress"}
        )
        yield self._measure(meter, step)[0]
        yield self._measure(meter, Step("DELETE /tasks/{id}", "DELETE", task))[0]
        cost, made = self._measure(meter, Step("POST /schedules", "POST", "/api/v1/schedules", body=SCHEDULE))
        yield cost
        schedule = f"/api/v1/schedules/{made['schedule']['id']}"
        yield self._measure(meter, Step("PATCH /schedules/{id}", "PATCH", schedule, body={"enabled": False}))[0]
        yield self._measure(meter, Step("DELETE /schedules/{id}", "DELETE", schedule))[0]
        timed = {
            "name": "Lamps",
            "cron": "0 18 * * *",
            "command": {"device_id": self._account.first.device_id, **COMMAND},
        }
        step = Step("POST /schedules, of a command", "POST", "/api/v1/schedules", body=timed)
        cost, made = self._measure(meter, step)
        yield cost
        self._measure(meter, Step("", "DELETE", f"/api/v1/schedules/{made['schedule']['id']}"))
        cost, made = self._measure(meter, Step("POST /avatars", "POST", "/api/v1/avatars", body=AVATAR))
        yield cost
        avatar = f"/api/v1/avatars/{made['avatar']['id']}"
        yield self._measure(meter, Step("PATCH /avatars/{id}", "PATCH", avatar, body={"name": "Moss"}))[0]
        yield self._measure(meter, Step("DELETE /avatars/{id}", "DELETE", avatar))[0]
        cost, made = self._measure(meter, Step("POST /projects", "POST", "/api/v1/projects", body=PROJECT))
        yield cost
        project = f"/api/v1/projects/{made['project']['id']}"
        yield self._measure(meter, Step("PATCH /projects/{id}", "PATCH", project, body={"progress": 50}))[0]
        device_id = self._account.first.device_id
        shown = f"{project}/devices"
        step = Step("POST /projects/{id}/devices", "POST", shown, body={"device_id": device_id})
        yield self._measure(meter, step)[0]
        step = Step("GET /devices?project=", "GET", "/api/v1/devices", query={"project": made["project"]["id"]})
        yield self._measure(meter, step)[0]
        yield self._measure(meter, Step("DELETE /projects/{id}/devices/{id}", "DELETE", f"{shown}/{device_id}"))[0]
        yield self._measure(meter, Step("DELETE /projects/{id}", "DELETE", project))[0]


def limit_of(cost: Cost) -> int:
    """Return the calls that a route may make: two for a read, one more for an order that needs an index.

    Checkpoints say where the rest is (docs/adr/0047): a run's are listed beside its labels, which are kept apart, and
    one is shown with its run, what that was started with, its thread and the state at the point. Telemetry of a day is
    the device, what is known of its metrics, and a query of each (docs/adr/0060). An account's usage are four counts,
    each kept where something is taken of it. What a project shows is the shares, the people, and the devices (0073).
    """
    if "/checkpoints" in cost.route:
        return 5 if "/checkpoints/{id}" in cost.route else 3
    if "/telemetry, a day" in cost.route:
        return 4 if "two metrics" in cost.route else 3
    if cost.route == "GET /transfers":
        return 5  # offers by account and by address, the account, and whose devices they are (0071)
    if cost.route == "GET /usage":
        return 4
    if "of another's" in cost.route or "as a member" in cost.route or "with a project" in cost.route:
        return 7  # docs/adr/0073, 0079: who is a member, and of what, is read each time
    return 3 if "sort=name" in cost.route or "project=" in cost.route else 2


def page(costs: Sequence[Cost]) -> str:
    """Render docs/calls.md."""
    left_out = [f"- {group}: {_LEFT_OUT.get(group, 'nobody has measured it yet')}." for group in unmeasured(costs)]
    rows = [f"| {cost.route} | {_shown(cost.calls)} | {cost.read_units:g} | {cost.write_units:g} |" for cost in costs]
    table = ["| route | DynamoDB calls | RRU | WRU |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([_INTRODUCTION, *left_out, "", *table, ""])


def unmeasured(costs: Iterable[Cost]) -> list[str]:
    """Return the groups of docs/openapi.json none of whose routes is measured, in alphabetical order."""
    measured = {_template(cost.route) for cost in costs}
    groups: dict[str, bool] = {}
    for path, operations in json.loads(DESCRIPTION.read_text())["paths"].items():
        for method, operation in operations.items():
            [group] = operation["tags"]
            groups[group] = groups.get(group, False) or _template(f"{method.upper()} {path}") in measured
    return sorted(group for group, has_one in groups.items() if not has_one)


def _template(route: str) -> str:
    """Return method and path of a route, without its version, the names of its parameters and what follows it."""
    return re.sub(r"\{\w+\}", "{}", re.split("[,?]", route)[0].replace(" /api/v1/", " /"))


def _shown(calls: tuple[str, ...]) -> str:
    # Not in the order of their ends: reads that run side by side have none.
    counted = ((calls.count(name), name) for name in sorted(set(calls)))
    return ", ".join(f"{times} {name}" if times > 1 else name for times, name in counted) or "none"


_INTRODUCTION = f"""\
# What routes cost in DynamoDB

Written by `{REWRITE}`; `tests/integration/benchmarks/test_calls.py` fails when it is stale, when a number is not
the same among 100 and among 2,000 items a table (`ITEMS=10000` for more), or when a read makes more than two calls
(three with `sort=name`, see docs/adr/0005-device-data.md, and for checkpoints, five for one of them).
`python -m benchmarks calls --items 100000` measures among more.

The caller is cached, as for a minute in a warm process; for a change it is read anew (docs/adr/0032-fresh-proof.md).
Lists show {LIMIT} rows of about 1 KB. Units are computed from item sizes by AWS's rules (`benchmarks/meter.py`).

The table has what clients ask most often: the list of each kind, one of it, its creation, change and deletion.
Left out are routes of the same kind as one that is there: those of `/api` that answer as their twin of `/api/v1`
does, members and invitations of projects, changes of accounts and keys, and what administrators do with single
events and customers. What each function may call at all is in `tests/infra/golden/calls.json`.

Rows of `ingest` are what one message of one device costs, alone in its batch; those of `telemetry` one message that
names an export of one device, where a page of raw samples is a Query a megabyte, 128 RRU.

Not in the table, because its cost does grow: a list of devices by filter, by offset, or in an order other than by age
or name reads up to 1,000 devices of its owner, 110 KB a hundred (docs/adr/0005-device-data.md). Lists of agents by tag
and of runs by agent count up to 1,000 rows for their `total` when it is more than a page, in one Query beside the
page's own (docs/adr/0010-agent-catalogue.md); so do lists of tasks by status, of projects and of their members.
A list of threads by words or by agent looks at up to 500 of them.

Nor are the stream's own routes: who joins a run (`GET /runs/{{id}}/events?join=true`) reads it with its log in one
Query a megabyte, and its thread in one Query a megabyte: 3 calls for a log of 1 MB. A follower makes a Query each
.25 to 1 s. A stream of any route takes and returns its place by one update each; one of more than 75 s renews it by
another each 37.5 s (docs/adr/0035-edge.md). Who has no WebSocket reads an inbox once a second (`GET /realtime/stream`),
3,600 RRU an hour, and each batch of messages writes it once (docs/adr/0067-streams-beside-the-websocket.md has the
price).

Nor is what a change costs beside its route for who watches it (docs/adr/0059-push.md). The router reads a unit a
channel while nobody does: of a task that is its own and its owner's list. For watchers of an object it reads who they
are, 9 RRU a hundred, and sends a message of SQS a hundred; for those of a list it numbers the message as well, by a Get
and an Update. A device is read anew, 1 to 3 RRU. The pusher makes no call of DynamoDB for a job of less than a second,
and reads 100 RRU for an older one. API Gateway takes $1 for a million messages: 10,000 watchers of one change cost a
cent, and all of the above together a fiftieth of that.

No route of these groups is measured:
"""

_LEFT_OUT = {
    "about": "it reads nothing",
    "audit": "a list as that of notices, which is read when something is looked into",
    "auth": "a login or a registration takes a password's hash or a mail, next to which its calls are little",
    "files": "docs/adr/0009-files.md and 0063-previews.md have the calls of each; their bytes in S3 cost more",
    "firmware": "docs/adr/0064-firmware.md has the calls of each",
    "health": "it asks each service once, and is asked by monitors",
    "mcp-servers": "docs/adr/0052-mcp-servers.md has the calls of each; what the server itself takes is more",
    "models": "the configuration, which each process keeps for half a minute",
    "realtime": "one ticket a connection",
    "webhooks": "docs/adr/0051-outgoing-webhooks.md has the calls of each",
}
"""Reasons for measuring none of a group's routes, by the group's name in docs/openapi.json."""


def rows(world: World, items: int = ITEMS) -> list[Row]:
    """Measure among `items` items a table, for the table of all benchmarks."""
    found = []
    for cost in measure(world.values, items):
        reads = cost.route.startswith("GET")
        shown = f"{_shown(cost.calls)}; {cost.read_units:g} RRU, {cost.write_units:g} WRU"
        limit = limit_of(cost)
        found.append(
            Row(
                "api", f"calls: {cost.route}", f"{items} items a table", shown,
                f"<= {limit} calls" if reads else "", len(cost.calls) <= limit if reads else None,
            )
        )  # fmt: skip
    return found


def measure(values: Mapping[str, str], items: int) -> list[Cost]:
    """Measure in this process, whose environment is the API's; `values` has the tables' names."""
    from api.handler import lambda_handler

    tables = {name.removesuffix("_TABLE").lower(): table for name, table in values.items() if name.endswith("_TABLE")}
    with on_dynamodb_local(tables) as client:
        mine = Rows(client, tables, lambda_handler)
        mine.fill(items)
        return mine.costs()


def main() -> int:
    """Write the page."""
    with quiet(), seeded() as world:
        PAGE.write_text(page(measure(world.values, ITEMS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

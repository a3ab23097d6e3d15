"""Costs in DynamoDB of devices that change hands, and of a member's requests for a device that a project shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from benchmarks.account import COMMAND, PASSWORD, Account, Step

if TYPE_CHECKING:
    from benchmarks.calls import Cost

Count = Callable[[str, Callable[[], Any]], "tuple[Cost, Any]"]


class Shares:
    """Requests of the account for devices of somebody else's."""

    def __init__(self, account: Account, count: Count) -> None:
        from karma.core.ids import UserId
        from tests.support.accounts import open_account

        self._account = account
        self._count = count
        self._me = UserId(account.first.user_id)
        self._host = open_account()

    def costs(self) -> Iterator[Cost]:
        """Measure transfers, then what members do."""
        yield from self._transfers()
        yield from self._uses()
        yield from self._searches()

    def _step(self, route: str, method: str, path: str, body: object = None, **query: object) -> Cost:
        return self._count(route, lambda: self._account.call(Step(route, method, f"/api/v1{path}", query, body)))[0]

    def _transfers(self) -> Iterator[Cost]:
        from karma.core.clock import SystemClock
        from tests.contexts.projects import stored_device
        from tests.support.transfers import Transfers

        mine = self._account.call(Step("", "POST", "/api/v1/devices", body=self._account.device()))["device"]["id"]
        path, body = f"/devices/{mine}/transfer", {"user_id": self._host, "current_password": PASSWORD}
        yield self._step("POST /devices/{id}/transfer", "POST", path, body)
        yield self._step("GET /devices/{id}/transfer", "GET", path)
        yield self._step("DELETE /devices/{id}/transfer", "DELETE", path)
        self._account.call(Step("", "DELETE", f"/api/v1/devices/{mine}"))
        service = Transfers(SystemClock())
        for answer in ("decline", "accept"):
            theirs = stored_device(self._host)
            service.offer(self._host, theirs, self._me)
            if answer == "decline":
                yield self._step("GET /transfers", "GET", "/transfers")
            route = f"POST /devices/{{id}}/transfer/{answer}"
            yield self._step(route, "POST", f"/devices/{theirs}/transfer/{answer}")

    def _uses(self) -> Iterator[Cost]:
        from tests.contexts.projects import stored_device
        from tests.support.projects import show

        self._device = stored_device(self._host)
        self._project = show(self._device, of=self._host, to=self._me)
        path = f"/devices/{self._device}"
        yield self._step("GET /devices/{id}, of another's", "GET", path)
        yield self._step("POST /devices/{id}/commands, of another's", "POST", f"{path}/commands", COMMAND)
        asked = {"devices": [self._device], "metrics": ["temp_c"], "resolution": "raw"}
        yield self._step("POST /telemetry/query, of another's device", "POST", "/telemetry/query", asked)
        yield self._step("GET /alarms?device_id=, of another's", "GET", "/alarms", device_id=self._device)

    def _searches(self) -> Iterator[Cost]:
        from api.services import process, search
        from karma.core.ids import made_ms
        from karma.core.search_rows import RowChange, SearchKey, SearchText
        from karma.search.ports import StampedChange
        from karma.search.repository import SearchRepository
        from tests.contexts.projects import stored_device
        from tests.support.projects import share

        rows, at = SearchRepository(), process.clock().now() - timedelta(minutes=3)

        def write(owner: Any, kind: str, object_id: str, name: str, sequence: int) -> None:
            key = SearchKey(owner, kind, object_id, made_ms(object_id))
            rows.write(owner, [StampedChange(RowChange(key, SearchText(name=name)), str(sequence))], at=at)

        rows.forget(self._me)
        write(self._me, "project", self._project, "Shed", 1)
        write(self._host, "device", self._device, "Cellar pump", 1)
        search.service.cache_clear()
        named, other = {"q": "cellar"}, {"q": "attic"}
        yield self._step("GET /search, as a member, by a process that knows nothing", "GET", "/search", **other)
        yield self._step("GET /search, as a member", "GET", "/search", **other)
        yield self._step("GET /search, as a member, with a hit of another's", "GET", "/search", **named)
        yield self._step("GET /search, with a project", "GET", "/search", q="shed")
        write(self._host, "device", self._device, "Cellar fan", 2)
        yield self._step("GET /search, as a member, behind a change of another's", "GET", "/search", **other)
        share(stored_device(self._host), of=self._host, project_id=self._project)
        yield self._step("GET /search, as a member, behind a share", "GET", "/search", **other)

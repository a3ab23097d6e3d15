"""Devices of a list: all or none, or those that can, once, within the plan, and with a certificate when it is time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from karma.billing.plans import PlanName, plan_at
from karma.core.errors import AlreadyExists, Gone, QuotaExceeded, ValidationFailed
from karma.core.ids import new_id
from karma.devices.certificates import CertificateService
from karma.devices.device_csv import read_table
from karma.devices.importing import ImportReport, ImportService
from karma.devices.reading import DeviceQuery
from karma.devices.repository.rotations import RotationRepository
from karma.devices.service import Created
from karma.devices.sweeps import sweep_orphans
from tests.integration.api.test_devices import Client, user
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.devices import World, new_device
from tests.support.plans import allowance
from tests.support.requests import key
from tests.support.stack import Stack

__all__ = ["user"]

ENTRY = f"{Path(__file__).with_name('import_entry.py')}:run"
HEADER = "name,model,mac,serial_number,tags"


def listed(*serials: str, **changes: str) -> str:
    rows = [f"Lamp {each},{changes.get(each, 'EOS-3A')},AA:BB:CC:00:11:22,{each},north|wet" for each in serials]
    return "\n".join([HEADER, *rows])


class Imports:
    """An account that imports lists."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.service = ImportService(world.repository, world.clock)
        self.plan = PlanName.ENTERPRISE

    def all(self, text: str, **given: Any) -> ImportReport:
        return self.service.import_all(
            self.world.user, read_table(text), allowance=allowance(self.world.user, self.plan), **given
        )

    def each(self, text: str, **given: Any) -> ImportReport:
        terms = allowance(self.world.user, self.plan)
        return self.service.import_each(self.world.user, read_table(text), allowance=terms, **given)

    @property
    def serials(self) -> list[str]:
        found = self.world.devices.list(self.world.user, DeviceQuery(limit=100)).devices
        return sorted(each.device.serial_number for each in found)


@pytest.fixture
def imports(world: World) -> Imports:
    return Imports(world)


@pytest.mark.fault("F-31ac")
@pytest.mark.req("R-K-11", "R-K-12", "R-K-13")
def test_all_rows_make_devices_that_get_their_certificates_later(imports: Imports) -> None:
    world = imports.world
    report = imports.all(listed("EOS-1", "EOS-2"))
    assert [(each.line, each.serial_number) for each in report.created] == [(2, "EOS-1"), (3, "EOS-2")]
    assert (report.total, list(report.refused), imports.serials) == (2, [], ["EOS-1", "EOS-2"])
    assert (world.registry.things, world.registry.certificates) == ({}, {})
    current = world.devices.get(world.user, report.created[0].id)
    assert (current.device.tags, current.device.certificates, current.status) == (("north", "wet"), 0, "offline")

    certificates = CertificateService(world.repository, RotationRepository(), world.registry, world.clock)
    assert certificates.list(world.user, current.device.id) == []
    first = certificates.rotate(world.user, current.device.id)
    assert (first.current.device.certificates, list(world.registry.things)) == (1, ["EOS-1"])
    spoken = Created(first.current, first.certificate, first.endpoint)
    world.connect(spoken)
    assert world.current(spoken).status == "online"
    second = certificates.rotate(world.user, current.device.id)
    assert second.current.device.certificates == 2
    for each in report.created:
        world.devices.delete(world.user, each.id)
    assert (world.registry.things, world.registry.certificates, imports.serials) == ({}, {}, [])


@pytest.mark.fault("F-31ac")
def test_where_one_is_taken_or_wrong_none_is_made(imports: Imports) -> None:
    other = open_account()
    imports.world.devices.create(other, new_device(serial_number="EOS-2"), allowance=allowance(other))
    with pytest.raises(AlreadyExists) as taken:
        imports.all(listed("EOS-1", "EOS-2", "EOS-3"))
    assert taken.value.details == {"line": 3}
    assert taken.value.message.startswith("Line 3: ")
    with pytest.raises(ValidationFailed) as wrong:
        imports.all(listed("EOS-1", "EOS-4", **{"EOS-4": "EOS-9"}))
    details: Any = wrong.value.details
    assert [each["field"] for each in details] == ["csv[3].model"]
    assert imports.serials == []
    assert [item for item in imports.world.items() if item["type"]["S"] == "device" and "EOS-1" in str(item)] == []
    assert [each.serial_number for each in imports.all(listed("EOS-1", "EOS-3")).created] == ["EOS-1", "EOS-3"]


@pytest.mark.fault("F-31ac")
def test_row_by_row_those_that_can_are_made_and_the_others_told(imports: Imports) -> None:
    imports.all(listed("EOS-2"))
    report = imports.each(listed("EOS-1", "EOS-2", "EOS-3", "EOS-4", **{"EOS-3": "EOS-9"}))
    assert [each.serial_number for each in report.created] == ["EOS-1", "EOS-4"]
    assert [(each.line, each.field, each.code) for each in report.refused] == [
        (3, "serial_number", "ALREADY_EXISTS"),
        (4, "model", "VALIDATION_ERROR"),
    ]
    assert imports.serials == ["EOS-1", "EOS-2", "EOS-4"]


@pytest.mark.fault("F-31ac")
@pytest.mark.parametrize("whole", [True, False], ids=["all", "each"])
def test_a_plan_has_the_last_word(imports: Imports, whole: bool) -> None:
    imports.plan = PlanName.FREE
    most = plan_at(PlanName.FREE, imports.world.clock.now()).limits.devices
    assert most is not None
    serials = [f"EOS-{n}" for n in range(most + 2)]
    if whole:
        with pytest.raises(QuotaExceeded):
            imports.all(listed(*serials))
        assert imports.serials == []
    else:
        report = imports.each(listed(*serials))
        assert [each.code for each in report.refused] == ["QUOTA_EXCEEDED"] * 2
        for each in report.created:
            imports.world.devices.delete(imports.world.user, each.id)
    assert len(imports.all(listed(*serials[:most])).created) == most, "what was refused took nothing"


@pytest.mark.fault("F-31ac")
@pytest.mark.parametrize("way", [Imports.all, Imports.each], ids=["all", "each"])
def test_a_repeat_with_its_key_makes_nothing_twice(imports: Imports, way: Callable[..., ImportReport]) -> None:
    text = listed("EOS-1", "EOS-2")
    first = way(imports, text, idempotency_key=key("k"))
    assert way(imports, text, idempotency_key=key("k")) == first
    imports.world.devices.delete(imports.world.user, first.created[0].id)
    if way is Imports.all:
        with pytest.raises(Gone):
            way(imports, text, idempotency_key=key("k"))
    else:
        assert [each.code for each in way(imports, text, idempotency_key=key("k")).refused] == ["GONE"]
    assert imports.serials == ["EOS-2"]


@pytest.mark.fault("F-31ac")
@pytest.mark.parametrize("whole", [True, False], ids=["all", "each"])
def test_one_that_dies_at_any_call_is_finished_by_its_repeat(stack: Stack, whole: bool) -> None:
    stack.use("api")
    user_id = open_account()

    def comparable(item: dict[str, Any]) -> dict[str, Any] | None:
        if item["type"] in {"device_counter", "device_request"}:
            return None
        item["sk"] = "#".join(part for part in item["sk"].split("#") if "-" not in part)
        item.update(dict.fromkeys(("device_id", "gsi1sk"), ""))
        return item

    def seed() -> dict[str, Any]:
        names = {name: stack.tables[name] for name in ("devices", "billing", "identity")}
        return {"tables": names, "user": user_id, "csv": listed("EOS-1", "EOS-2"), "key": new_id(), "whole": whole}

    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables["devices"], stack.tables["billing"]],
        seed=seed,
        normalise=comparable,
        accept=lambda answer: answer == {"created": 2},
    ).run()
    assert report.calls.count("dynamodb.TransactWriteItems") == 4


@pytest.mark.fault("F-31ac")
def test_what_a_dead_import_has_taken_is_given_back_by_the_sweep(imports: Imports) -> None:
    world = imports.world
    row = read_table(listed("EOS-1")).rows[0]
    imports.service._claim(world.user, row, None, allowance(world.user))
    assert imports.serials == []
    world.clock.pass_time(minutes=3)
    sweep_orphans(registry=world.registry, clock=world.clock)
    assert [each for each in world.items() if each["type"]["S"] in {"device", "thing"}] == []
    assert len(imports.all(listed("EOS-1")).created) == 1


@pytest.mark.fault("F-45f")
@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("step", ["claim", "activate"])
@pytest.mark.parametrize("reverse", [False, True], ids=["same-order", "reverse"])
def test_of_two_lists_at_once_each_is_made_or_refused_with_its_line(
    imports: Imports, monkeypatch: pytest.MonkeyPatch, before: int, step: str, reverse: bool
) -> None:
    world, serials = imports.world, ["EOS-1", "EOS-2", "EOS-3"]
    goes_on, outcomes = getattr(world.repository, step), list[object]()
    left = [before]

    def overtaken(*given: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            outcomes.append(attempted(serials[::-1] if reverse else serials))
        return goes_on(*given, **more)

    def attempted(wanted: list[str]) -> object:
        try:
            return len(imports.all(listed(*wanted)).created)
        except AlreadyExists as exc:
            return exc.details

    monkeypatch.setattr(world.repository, step, overtaken)
    outcomes.append(attempted(serials))
    made = [each for each in outcomes if each == 3]
    assert all(each == 3 or (isinstance(each, dict) and each["line"]) for each in outcomes)
    assert len(made) <= 1
    assert imports.serials == (serials if made else [])
    used = sum(int(each["value"]["N"]) for each in world.items("billing") if "value" in each)
    assert used == len(imports.serials)


def test_a_route_answers_with_what_became_of_each_row(user: Callable[[], Client]) -> None:
    ada = user()
    serial = f"EOS-{new_id()[-12:]}"
    answer = ada("POST", "/devices/import", {"csv": "\ufeff" + listed(serial).replace(",", ";")}, status=201)
    [created] = answer["created"]
    assert (created["line"], created["serial_number"], answer["refused"], answer["total"]) == (2, serial, [], 1)
    device = ada("GET", f"/devices/{created['device_id']}")["device"]
    assert (device["certificates"], device["rotation"], device["tags"]) == (0, None, ["north", "wet"])
    made = ada("POST", f"/devices/{device['id']}/certificates", {}, status=201)
    assert (made["device"]["certificates"], made["credentials"]["thing_name"]) == (1, serial)
    told = ada("POST", "/devices/import", {"csv": listed(serial), "all_or_nothing": False}, status=201)
    assert (told["created"], [each["code"] for each in told["refused"]]) == ([], ["ALREADY_EXISTS"])
    assert ada("POST", "/devices/import", {"csv": listed(serial)}, status=409)["details"] == {"line": 2}
    failure = ada("POST", "/devices/import", {"csv": "colour\nred\n"}, status=422)
    assert failure["details"][0]["field"] == "csv"
    assert ada("POST", "/devices/import", {"csv": ""}, status=422)["code"] == "VALIDATION_ERROR"

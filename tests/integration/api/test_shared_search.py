"""Search by members: they find the devices that their projects show them, and what ends that ends it at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from karma.core.clock import SystemClock
from karma.core.happenings import ItemChange
from karma.core.searchables import declared
from karma.search.feed import Feed
from karma.search.repository import SearchRepository
from tests.integration.api.conftest import Api
from tests.integration.api.test_project_devices import ENDS
from tests.support.stack import Stack
from tests.support.teams import MEMBERS, Team

Stored = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def team(stack: Stack, api: Api, stored: Stored) -> Team:
    made = Team(stack, api)
    made.share()
    fill(stored)
    return made


def fill(stored: Stored) -> None:
    """Write the rows of all that is stored, as streams do; what has ended since keeps its rows."""
    items = [ItemChange(None, item) for table in ("devices", "work") for item in stored(table)]
    Feed(SearchRepository(), declared(), SystemClock()).fill(items)


def found(team: Team, name: str, query: str = "q=greenhouse&type=device") -> list[str]:
    answer = team.call(name, "GET", "/search", query=query)
    assert answer.status == 200, answer.text
    assert answer.data["total"] == len(answer.data["results"])
    return [each["id"] for each in answer.data["results"]]


@pytest.mark.req("R-C-31")
@pytest.mark.fault("F-44a")
def test_each_member_finds_what_a_project_shows(team: Team) -> None:
    for name in MEMBERS:
        assert found(team, name) == [team.device]
        [hit] = team.call(name, "GET", "/search", query=f"q={team.made.current.device.serial_number}").data["results"]
        assert (hit["project_id"], hit["status"], hit["tags"]) == (team.project, "offline", ["north"])
        assert found(team, name, "q=tag:north offline devices") == [team.device]
        assert found(team, name, f"q={team.device}") == [team.device]
    assert found(team, "eve") == []
    [own] = team.call("ada", "GET", "/search", query="q=greenhouse&type=device").data["results"]
    assert (own["id"], own["project_id"]) == (team.device, None)


@pytest.mark.fault("F-44b")
@pytest.mark.parametrize("end", ENDS)
def test_nobody_finds_it_any_more_once(team: Team, end: Callable[[Team], None]) -> None:
    assert [found(team, name) for name in MEMBERS] == [[team.device]] * len(MEMBERS)
    end(team)
    for name in MEMBERS:
        assert found(team, name) == [], "though no stream has told of it yet"
        answer = team.call(name, "GET", "/search", query="q=greenhouse&type=project")
        is_member = team.call(name, "GET", f"/projects/{team.project}").status == 200
        assert [each["id"] for each in answer.data["results"]] == ([team.project] if is_member else [])


def test_what_a_second_project_shows_is_found_once(team: Team, stored: Stored) -> None:
    from tests.support.projects import invitations, join

    other = team.make_project()
    join(invitations(team.store, team.clock), other, team.ids["vic"], by=team.ids["ada"])
    fill(stored)
    assert team.share(project=other).status == 201
    assert found(team, "vic") == [team.device], "the next request finds what is shared, and finds it once"
    for project in (team.project, other):
        assert found(team, "vic") == [team.device]
        team.call("ada", "DELETE", f"/projects/{project}/devices/{team.device}")
    assert found(team, "vic") == []


def test_a_renamed_device_is_found_by_its_new_name(team: Team, stored: Stored) -> None:
    assert found(team, "vic") == [team.device]
    assert team.call("ada", "PATCH", f"/devices/{team.device}", {"name": "Cellar"}).status == 200
    items = [ItemChange(None, item) for item in stored("devices")]
    SearchRepository().forget(team.ids["ada"])
    Feed(SearchRepository(), declared(), SystemClock()).fill(items)
    assert (found(team, "vic"), found(team, "vic", "q=cellar")) == ([], [team.device])

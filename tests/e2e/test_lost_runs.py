"""Processes of the stream function that are killed in the middle of answers. KILLED=20 kills those of as many runs."""

from __future__ import annotations

import pytest

from local.api_client import ApiClient
from local.deployment import Deployment
from tests.support.agui import verify
from tests.support.killed_runs import KilledRuns
from tests.support.lost_runs import screen

ENDED_S = 240


@pytest.mark.late
@pytest.mark.req("R-K-40")
def test_runs_whose_processes_were_killed_go_on_in_others_and_say_all_once(
    killed_runs: KilledRuns, deployment: Deployment
) -> None:
    killed_runs.join(timeout_s=ENDED_S)
    assert killed_runs.killed >= len(killed_runs.runs) > 0
    for run in killed_runs.runs:
        assert run.failure is None, run.failure
        verify(run.events)
        with ApiClient(deployment.addresses.api_url, token=run.token) as api:
            stored = api.call("GET", f"/runs/{run.run_id}", messages="true")
        assert (stored["run"]["status"], run.events[-1]["type"]) == ("finished", "RUN_FINISHED")
        assert [each["content"] for each in screen(run.events)] == [stored["messages"][-1]["content"]]
    # Some may have said all before the last had begun; of the others the half answer was withdrawn.
    assert any(event["type"] == "MESSAGES_SNAPSHOT" for run in killed_runs.runs for event in run.events)

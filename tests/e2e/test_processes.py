"""One command, no container: the whole backend is a handful of processes and one folder."""

from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from infra.catalog import SWEEPS, FunctionName
from local.deployment import Deployment, Given
from local.progress import Progress
from local.waiting import http_status


@pytest.mark.req("R-M-34", "R-A-45", "R-A-46")
@pytest.mark.fault("F-23a")
@pytest.mark.needs("local-stage")
def test_the_backend_is_processes_on_loopback_and_a_folder(deployment: Deployment) -> None:
    running = deployment.processes.running()
    assert set(running) == {"engine", "front", "model", "stream", "stripe"}
    for name, pid in running.items():
        listening = {
            Path(process.exe()).name for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        }
        assert not {each for each in listening if "docker" in each or "containerd" in each}, name
        trees = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        sockets = [each for process in trees for each in process.net_connections("inet")]
        listening_at = {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
        assert listening_at, name
        elsewhere = {ip for ip in listening_at if not ip_address(ip.removeprefix("::ffff:")).is_loopback}
        assert not elsewhere, f"{name} listens to the neighbourhood"
    assert http_status(f"{deployment.addresses.api_url}/docs") == 200
    assert http_status(f"{deployment.addresses.stream_url}/health") == 200
    assert deployment.addresses.api_url.startswith("http://127.0.0.1:")
    for place in (deployment.places.state, deployment.places.secrets, deployment.places.logs):
        assert deployment.places.base in place.parents
        assert any(place.iterdir()), f"{place} holds what `make dev` keeps"


@pytest.mark.fault("F-23a")
@pytest.mark.needs("local-stage")
@pytest.mark.parametrize("function", sorted(set(SWEEPS.values())))
def test_sweeps_do_not_pile_up(deployment: Deployment, function: FunctionName) -> None:
    name = deployment.outputs[f"Function{function.label}"]
    reserved = deployment.adapter.client("lambda").get_function_concurrency(FunctionName=name)
    schedules = [each for each in SWEEPS.values() if each is function]
    assert reserved.get("ReservedConcurrentExecutions") == len(schedules)


@pytest.mark.needs("local-stage")
def test_what_is_up_is_current_until_what_its_stacks_are_made_of_changes(deployment: Deployment) -> None:
    """By this `make dev` tells whether it deploys to an environment that is up."""
    another = Given(anthropic_api_key="another", python_path=deployment.given.python_path)
    try:
        assert deployment.is_current()
        assert not Deployment(deployment.places, persistent=True, given=another, progress=Progress()).is_current()
    finally:
        assert deployment.is_current()

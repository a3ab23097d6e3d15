"""Background processes are found again, ended for certain, and never mistaken for somebody else's."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from local.errors import NotReady
from local.places import ROOT, Places
from local.processes import Processes, Program, clean_environment, running
from local.waiting import until

SLEEPER = "import time\ntime.sleep(600)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)"
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(base=tmp_path / "local")
    found.make()
    return found


def start(places: Places, name: str, script: str) -> tuple[Processes, int]:
    processes = Processes(places)
    return processes, processes.start(Program(name, [sys.executable, "-c", script], clean_environment(), places.base))


def test_what_an_environment_keeps_is_its_users_alone(tmp_path: Path) -> None:
    made_before = tmp_path / "local"
    made_before.mkdir(mode=0o755)
    for base in (made_before, tmp_path / "another" / "local"):
        Places(base=base).make()
        assert base.stat().st_mode & 0o777 == 0o700


class TestStop:
    def test_another_command_finds_and_ends_it(self, places: Places) -> None:
        _, pid = start(places, "sleeper", SLEEPER)
        later = Processes(places)
        assert later.running() == {"sleeper": pid}
        assert later.stop(["sleeper"]) == ["sleeper"]
        assert later.running() == {}
        assert later.stop(["sleeper"]) == []

    def test_one_that_does_not_listen_is_killed_after_the_deadline(self, places: Places) -> None:
        processes, pid = start(places, "deaf", DEAF)
        until(lambda: "deaf" in processes.log("deaf").read_text(), deadline_s=20, what="its handler is set")
        processes.stop(["deaf"], deadline_s=0.2)
        assert not alive(pid)

    def test_what_it_started_ends_with_it(self, places: Places) -> None:
        processes, _ = start(places, "parent", PARENT)
        child = int(
            until(lambda: processes.log("parent").read_text().strip() or None, deadline_s=20, what="the child's pid")
        )
        assert alive(child)
        processes.stop(["parent"])
        assert not alive(child)

    def test_a_pid_that_was_given_to_somebody_else_is_left_alone(self, places: Places) -> None:
        stranger = subprocess.Popen([sys.executable, "-c", SLEEPER])
        try:
            record = {"pid": stranger.pid, "started": psutil.Process(stranger.pid).create_time() - 3600}
            (places.run / "engine.pid").write_text(json.dumps(record))
            processes = Processes(places)
            assert processes.running() == {}
            assert processes.stop(["engine"]) == []
            assert alive(stranger.pid)
        finally:
            stranger.kill()
            stranger.wait()

    def test_starting_again_replaces_the_old_one(self, places: Places) -> None:
        processes, old = start(places, "sleeper", SLEEPER)
        new = processes.start(Program("sleeper", [sys.executable, "-c", SLEEPER], clean_environment(), places.base))
        assert not alive(old)
        assert processes.running() == {"sleeper": new}
        processes.stop(["sleeper"])


STARTER = """
import sys, time
from pathlib import Path
from local.places import ROOT, Places
from local.processes import Processes, Program, clean_environment
places = Places(base=Path(sys.argv[1]))
processes = Processes(places)
processes.start(Program("parent", [sys.executable, "-c", sys.argv[2]], clean_environment(), places.base))
if sys.argv[3] == "release":
    processes.release()
print("started", flush=True)
time.sleep(600)
"""


def killed_starter(places: Places, how: str) -> tuple[Processes, int]:
    """Have another process start a program with a child of its own, and kill that process; return the child's pid."""
    command = [sys.executable, "-c", STARTER, str(places.base), PARENT, how]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        processes = Processes(places)
        log = processes.log("parent")
        child = until(lambda: log.read_text().strip() or None, deadline_s=20, what="the child's pid")
        starter.kill()
    return processes, int(child)


@pytest.mark.fault("F-23a")
class TestAStarterThatIsKilled:
    def test_leaves_nothing(self, places: Places) -> None:
        processes, child = killed_starter(places, "hold")
        until(lambda: not alive(child), deadline_s=20, what="the end of the program's child")
        until(lambda: processes.running() == {}, deadline_s=20, what="the end of the supervisor")
        assert processes.reap() == []

    def test_leaves_what_it_released(self, places: Places) -> None:
        processes, child = killed_starter(places, "release")
        assert list(processes.running()) == ["parent"]
        assert processes.reap() == [], "what runs is not left over"
        assert alive(child)
        assert processes.stop(["parent"]) == ["parent"]
        assert not alive(child)

    def test_and_its_supervisor_too_leave_nothing_after_the_next_start(self, places: Places) -> None:
        processes, child = killed_starter(places, "release")
        supervisor = psutil.Process(processes.running()["parent"])
        stranger = subprocess.Popen([sys.executable, "-c", SLEEPER])
        try:
            supervisor.kill()
            until(lambda: processes.running() == {}, deadline_s=20, what="the end of the supervisor")
            processes.reap()
            assert not alive(child)
            assert alive(stranger.pid)
        finally:
            stranger.kill()
            stranger.wait()


BLOCK = """
import sys, time
from local.processes import running
with running([sys.executable, "-c", sys.argv[1]]):
    time.sleep(600)
"""


@pytest.mark.fault("F-23a")
class TestAProgramOfABlock:
    def test_ends_with_the_block_and_takes_what_it_started_along(self) -> None:
        with running([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with process.stdout as said:
                child = int(said.readline())
            assert alive(child)
        assert process.returncode is not None
        assert not alive(child)

    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
    def test_ends_with_whoever_is_killed_in_it(self, end: signal.Signals) -> None:
        command = [sys.executable, "-c", BLOCK, PARENT]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as starter:
            assert starter.stdout is not None
            child = int(starter.stdout.readline())
            starter.send_signal(end)
        until(lambda: not alive(child), deadline_s=20, what="the end of the program's child")

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a program of its parent's end")
    def test_ends_with_its_supervisor(self) -> None:
        with running([sys.executable, "-c", SLEEPER]) as supervisor:
            children = psutil.Process(supervisor.pid).children
            program = until(lambda: next(iter(children()), None), deadline_s=20, what="the program")
            until(lambda: "-I" not in program.cmdline(), deadline_s=20, what="the program's own command")
            supervisor.kill()
            try:
                until(lambda: not alive(program.pid), deadline_s=20, what="the end of a killed supervisor's program")
            finally:
                if alive(program.pid):
                    program.kill()


UNSUPERVISED = {
    "benchmarks/cold.py": "ends with the connection to its Runtime API",
    "benchmarks/world.py": "ends with its standard input",
    "local/messages_api/front.py": "a supervised program's own",
    "tests/engines/localstack/host/karma_localstack/process.py": "a supervised program's own",
    "tests/contract/clients/test_agent.py": "ends with its standard input",
    "tests/contract/clients/test_live.py": "ends with its standard input",
    "tests/e2e/test_live_streams.py": "ends with its standard input",
    "tests/e2e/test_push.py": "ends with its standard input",
    "tests/e2e/test_rollouts.py": "ends with its standard input",
    "tests/support/crash_processes.py": "ends with its standard input",
    "tests/support/oauth/providers.py": "ends with its standard input",
    "tests/unit/local/test_processes.py": "what is tried here",
}


@pytest.mark.fault("F-23a")
def test_nothing_runs_in_the_background_that_a_kill_would_leave_behind() -> None:
    places = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("local/**/*.py")]
    own = ROOT / "local"
    found = {
        str(path.relative_to(ROOT))
        for path in places
        if path not in {own / "processes.py", own / "supervisor.py"} and "Popen(" in path.read_text()
    }
    assert found == UNSUPERVISED.keys()


class Clock:
    """A clock that advances only when somebody waits."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


class TestReadiness:
    def test_one_that_ends_early_shows_the_end_of_its_log(self, places: Places) -> None:
        processes, _ = start(places, "broken", "raise SystemExit('no such table')")
        with pytest.raises(NotReady, match="no such table"):
            processes.wait_ready("broken", "never", lambda: False, deadline_s=20)

    @pytest.mark.fault("F-23a")
    def test_one_whose_answers_are_slow_gets_more_time(self, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
        processes, _ = start(places, "slow", SLEEPER)
        clock, said = Clock(), list[str]()

        def ready() -> bool:
            clock.sleep(0.5)
            return bool(said)

        with monkeypatch.context() as patched:
            patched.setattr("local.waiting.time", clock)
            processes.wait_ready("slow", "its port", ready, deadline_s=0.6, say=said.append)
        assert said == ["waiting for its port, up to 3 s: this machine is busy, one answer took 0.5 s"]
        processes.stop(["slow"])

    def test_one_that_stays_silent_is_given_up_at_the_deadline(self, places: Places) -> None:
        processes, _ = start(places, "silent", SLEEPER)
        with pytest.raises(NotReady, match="the port: nothing after"):
            processes.wait_ready("silent", "the port", lambda: False, deadline_s=0.2)
        processes.stop(["silent"])


def test_real_credentials_do_not_reach_local_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "real")
    monkeypatch.setenv("STRIPE_API_KEY", "real")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "real")
    assert "real" not in clean_environment(GIVEN="yes").values()
    assert clean_environment(GIVEN="yes")["GIVEN"] == "yes"
    assert clean_environment()["PATH"] == os.environ["PATH"]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_proxy_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.com:3128")
    monkeypatch.setenv("NO_PROXY", "internal.example.com,localhost")
    assert clean_environment()["NO_PROXY"] == "internal.example.com,localhost,127.0.0.1,::1"

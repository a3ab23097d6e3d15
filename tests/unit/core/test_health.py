"""The health of the components, which are asked at most every five seconds."""

from __future__ import annotations

import pytest

from karma.core.answers import finding_view
from karma.core.errors import NotFound
from karma.core.health import Finding, Health, HealthComponent, Status, overall


class Probe:
    def __init__(self) -> None:
        self.calls = 0
        self.fails = False

    def __call__(self) -> None:
        self.calls += 1
        if self.fails:
            raise ConnectionError("refused")


class Ticker:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.mark.req("R-M-22", "R-M-23", "R-M-24")
class TestHealth:
    def test_a_probe_runs_at_most_every_five_seconds(self) -> None:
        probe, ticker = Probe(), Ticker()
        health = Health({"database": HealthComponent(probe=probe)}, now=ticker)
        for moment in (0.0, 4.9, 5.0, 9.0):
            ticker.at = 100.0 + moment
            assert health.check("database").status is Status.HEALTHY
        assert probe.calls == 2

    def test_components_with_one_probe_share_its_result(self) -> None:
        probe = Probe()
        health = Health(
            {"database": HealthComponent(probe=probe), "redis": HealthComponent(probe=probe, replaced="dynamodb")},
            now=Ticker(),
        )
        found = health.check_all()
        assert probe.calls == 1
        assert finding_view(found["redis"])["replaced"] == "dynamodb"
        assert "replaced" not in finding_view(found["database"])

    def test_a_failing_probe_is_an_answer(self) -> None:
        probe, ticker = Probe(), Ticker()
        health = Health({"database": HealthComponent(probe=probe)}, now=ticker)
        probe.fails = True
        assert health.check("database").status is Status.UNHEALTHY
        probe.fails = False
        ticker.at += 5
        assert health.check("database").status is Status.HEALTHY

    def test_what_cannot_be_reached_is_not_called_healthy(self) -> None:
        health = Health({"llm": HealthComponent(probe=None, note="elsewhere")}, now=Ticker())
        assert finding_view(health.check("llm")) == {"status": "not_checked", "note": "elsewhere"}

    def test_an_unknown_component_is_not_found(self) -> None:
        with pytest.raises(NotFound):
            Health({}).check("nonsense")

    def test_one_unhealthy_component_makes_the_whole_unhealthy(self) -> None:
        good, bad = Finding(status=Status.HEALTHY), Finding(status=Status.UNHEALTHY)
        unknown = Finding(status=Status.NOT_CHECKED)
        assert overall({"a": good, "b": unknown}) is Status.HEALTHY
        assert overall({"a": good, "b": bad}) is Status.UNHEALTHY

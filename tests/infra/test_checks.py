"""cdk-nag and cfn-lint are clean; what was waived is counted and named."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from infra.checks import lint
from infra.config import Stage
from tests.infra.synthesized import Stages, Synthesized


def waivers_of(synthesized: Synthesized) -> dict[str, list[str]]:
    """Return the construct paths by waived rule, as recorded in the assembly."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in synthesized.folder.glob("*.metadata.json"):
        for construct, entries in json.loads(path.read_text(encoding="utf-8")).items():
            for entry in entries:
                if entry["type"] == "aws:cdk:acknowledged-rules":
                    for rule, reason in entry["data"].items():
                        assert len(reason) > 20, f"{construct}: {rule} is waived without a reason"
                        found[rule.removeprefix("Annotation::")].add(construct)
    return {rule: sorted(constructs) for rule, constructs in found.items()}


def test_waivers_are_named_one_by_one(prod: Synthesized, assert_golden: Callable[[str, object], None]) -> None:
    waivers = waivers_of(prod)
    assert_golden("waivers.json", waivers)
    stack_wide = [path for paths in waivers.values() for path in paths if path.strip("/").count("/") == 0]
    assert stack_wide == [], "a waiver names its resource, never a whole stack"


def test_nag_reports_nothing(aws: Synthesized) -> None:
    report = json.loads((aws.folder / "validation-report.json").read_text(encoding="utf-8"))
    assert report["pluginReports"] == []


def test_cfn_lint_is_clean(stages: Stages) -> None:
    """Of the local stage, which `make dev` does not lint; those of prod are linted where test_synthesis makes them."""
    assert lint(sorted(stages.of(Stage.LOCAL).folder.glob("*.template.json"))) == ""


def test_cfn_lint_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.template.json").write_text(
        '{"Resources": {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"Nmae": "a"}}}}'
    )
    assert "Nmae" in lint([tmp_path / "a.template.json"])

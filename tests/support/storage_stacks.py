"""Tables and queues as the synthesized stacks define them, for tests that make their own in an account of their own.

python -m tests.support.storage_stacks FOLDER        writes the templates (run by `synthesized`, once a change)
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.layers import locked

ROOT = Path(__file__).resolve().parents[2]
_CREATE_TABLE = ("AttributeDefinitions", "KeySchema", "BillingMode", "GlobalSecondaryIndexes", "LocalSecondaryIndexes")
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True)
class QueueShape:
    """Attributes for `CreateQueue`; `dead_letters` is the short name of another queue, "": none."""

    attributes: Mapping[str, str]
    dead_letters: str = ""
    max_receive_count: int = 0


@dataclass(frozen=True)
class Storage:
    """Tables and queues by short name: `devices`, `inbox_dlq`, ..."""

    tables: Mapping[str, Mapping[str, Any]]
    """Arguments of `CreateTable`, without the name."""
    queues: Mapping[str, QueueShape]


def synthesized() -> Storage:
    """Read the local stage's storage; it is synthesized anew, in a process of its own, when `infra` has changed.

    Of processes that run tests side by side the first one does it, and the others wait.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted((ROOT / "infra").rglob("*.py")):
        digest.update(path.read_bytes())
    folder = ROOT / "build" / "test-stacks" / digest.hexdigest()[:24]
    with locked(folder):
        if not (folder / "manifest.json").exists():
            _synthesize(folder)
    tables: dict[str, Mapping[str, Any]] = {}
    queues: dict[str, QueueShape] = {}
    for path in sorted(folder.glob("*.template.json")):
        template = json.loads(path.read_text())
        tables |= _tables(template)
        queues |= _queues(template)
    return Storage(tables, queues)


def _synthesize(folder: Path) -> None:
    command = [sys.executable, "-m", "tests.support.storage_stacks", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the storage stacks cannot be synthesized:\n{done.stderr}")


def _named(template: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Short name -> logical id, from the outputs that start with a prefix."""
    return {
        _CAPITAL.sub("_", key.removeprefix(prefix)).lower(): output["Value"]["Ref"]
        for key, output in template["Outputs"].items()
        if key.startswith(prefix)
    }


def _tables(template: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name, logical in _named(template, "Table").items():
        properties = template["Resources"][logical]["Properties"]
        shape = {key: properties[key] for key in _CREATE_TABLE if key in properties}
        if "StreamSpecification" in properties:
            shape["StreamSpecification"] = {"StreamEnabled": True, **properties["StreamSpecification"]}
        found[name] = shape
    return found


def _queues(template: Mapping[str, Any]) -> dict[str, QueueShape]:
    names = _named(template, "QueueUrl")
    short = {logical: name for name, logical in names.items()}
    found = {}
    for name, logical in names.items():
        properties = template["Resources"][logical]["Properties"]
        attributes = {
            key: str(properties[key]) for key in ("VisibilityTimeout", "MessageRetentionPeriod") if key in properties
        }
        redrive = properties.get("RedrivePolicy")
        if redrive is None:
            found[name] = QueueShape(attributes)
        else:
            target = short[redrive["deadLetterTargetArn"]["Fn::GetAtt"][0]]
            found[name] = QueueShape(attributes, target, int(redrive["maxReceiveCount"]))
    return found


def main() -> None:
    """Synthesize the stacks that hold storage."""
    # Local: the CDK starts Node.js when it is imported, which the tests need not wait for.
    from aws_cdk import App

    from infra.config import Overrides, Stage, stage_settings
    from infra.stacks.data import DataStack
    from infra.stacks.devices import DevicesStack

    app = App(outdir=sys.argv[1])
    settings = stage_settings(Stage.LOCAL, Overrides())
    DataStack(app, settings=settings)
    DevicesStack(app, settings=settings)
    app.synth()


if __name__ == "__main__":
    main()

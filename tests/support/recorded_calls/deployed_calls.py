"""AWS calls of deployed functions: their processes write them down (deployed/sitecustomize.py), this reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from infra.catalog import FunctionName
from tests.support.recorded_calls.needs import Told
from tests.support.recorded_calls.recorder import Recorder

_SITE = Path(__file__).parent / "deployed" / "sitecustomize.py"


class DeployedCalls:
    """A folder for the PYTHONPATH of deployed functions, and the files that they wrote into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heard = Recorder()
        self._read: dict[Path, int] = {}
        shutil.copy(_SITE, folder)

    def read(self) -> Recorder:
        """Return a recorder of the calls that were written since the last time."""
        for path in self.folder.glob("*.jsonl"):
            with path.open(encoding="utf-8") as file:
                file.seek(self._read.get(path, 0))
                # A line that is being written is left for the next time.
                while (line := file.readline()).endswith("\n"):
                    self._read[path] = file.tell()
                    wrote = json.loads(line)
                    told = Told(FunctionName(wrote["function"]), wrote["environment"])
                    self.heard.hear(told, wrote["service"], wrote["operation"], wrote["params"])
        return self.heard

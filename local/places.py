"""Folders of the local environment.

    .engine/venv                 the AWS engine's own virtual environment (it pins its own botocore)
    .engine/stripe               the Stripe peer's own
    .engine/localstack           the second engine's own, of those who test on it
    build/layers, build/local    packages of deployed functions, and the archives that point to them
    .local/settings.json         what the synthesis of the local stage is given
    .local/cdk/                  synthesized stacks
    .local/outputs.json          addresses and names (DESIGN section 10)
    .local/secrets/              private keys and passwords, mode 0600
    .local/state/                engine state, ports, hashes of what is deployed
    .local/run/, .local/logs/    pid files and logs of background processes

Tests give `base` a temporary directory and share the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Places:
    """The folders of one local environment."""

    base: Path
    root: Path = ROOT

    @property
    def engine_venv(self) -> Path:
        """Return the virtual environment of the AWS engine."""
        return self.root / ".engine" / "venv"

    @property
    def stripe_venv(self) -> Path:
        """Return the virtual environment of the Stripe peer."""
        return self.root / ".engine" / "stripe"

    @property
    def node_modules(self) -> Path:
        """Return the folder of programs from npm."""
        return self.root / "node_modules"

    @property
    def settings(self) -> Path:
        """Return the settings file of the local stage, an input of the synthesis."""
        return self.base / "settings.json"

    @property
    def assembly(self) -> Path:
        """Return the folder that the synthesis writes."""
        return self.base / "cdk"

    @property
    def outputs(self) -> Path:
        """Return the file of addresses and names, for people and programs."""
        return self.base / "outputs.json"

    @property
    def state(self) -> Path:
        """Return the folder of data that survive `make dev-down`."""
        return self.base / "state"

    @property
    def ports(self) -> Path:
        """Return the file of the ports chosen last."""
        return self.state / "ports.json"

    @property
    def secrets(self) -> Path:
        """Return the folder of private keys and passwords."""
        return self.base / "secrets"

    @property
    def run(self) -> Path:
        """Return the folder of pid files."""
        return self.base / "run"

    @property
    def logs(self) -> Path:
        """Return the folder of logs, one a process."""
        return self.base / "logs"

    def make(self) -> None:
        """Create the folders, for this user alone: templates, logs and the engine's state hold secrets as well."""
        self.base.mkdir(parents=True, exist_ok=True)
        self.base.chmod(0o700)
        for folder in (self.state, self.run, self.logs, self.secrets):
            folder.mkdir(exist_ok=True)


def of_repository() -> Places:
    """Return the folders of `make dev`."""
    return Places(base=ROOT / ".local")

"""Links a customer of the Stripe peer to an account of the local stage, as a checkout of ours does.

    python -m local.link FOLDER_OF_THE_ENVIRONMENT CUSTOMER_ID USER_ID

It is a separate process, because it sets the environment of a deployed function.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from local.errors import LocalError
from local.places import ROOT, Places
from local.processes import clean_environment, python


def link(places: Places, customer_id: str, user_id: str) -> None:
    """Link a customer to the account that they pay for.

    Raises:
        LocalError: the backend refused the link.
    """
    command = [python(), "-m", "local.link", str(places.base), customer_id, user_id]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise LocalError(f"{customer_id} cannot be linked: {done.stderr[-500:]}")


def main(arguments: list[str]) -> None:
    """Link in this process."""
    from local.operations import Operations

    base, customer_id, user_id = arguments
    Operations("local", Places(base=Path(base))).link_customer(customer_id, user_id, from_user_id=None)


if __name__ == "__main__":
    main(sys.argv[1:])

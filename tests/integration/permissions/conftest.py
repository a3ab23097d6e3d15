from __future__ import annotations

import json
from collections.abc import Iterator
from typing import cast

import pytest

from karma.identity.limits import RULES, Rule
from tests.integration.permissions.world import World
from tests.support.model_server import ModelServer
from tests.support.stack import Context, HttpEvent, Stack


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture(autouse=True)
def one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all people of a test do from one network, or with one account, what few may do often."""
    for name in ("chat", "outward", "costly"):
        monkeypatch.setitem(cast("dict[str, Rule]", RULES), name, RULES["default"])


@pytest.fixture
def world(stack: Stack, http_event: HttpEvent, lambda_context: Context) -> World:
    for name in ("karma-device", "karma-claim"):
        stack.aws("iot").create_policy(
            policyName=name, policyDocument=json.dumps({"Version": "2012-10-17", "Statement": []})
        )
    return World(stack, http_event, lambda_context)

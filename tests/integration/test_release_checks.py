"""The events that try a new version are answered by the functions of today as a release expects, and change nothing."""

import importlib
import json

import pytest

from infra.catalog import FUNCTIONS, FunctionName
from infra.constructs.release import check_of
from infra.hooks.release_check import differs
from tests.support.stack import Context, Stack

HANDLERS = [name for name in FunctionName if name is not FunctionName.AGENT_STREAM]


@pytest.mark.parametrize("name", HANDLERS)
def test_a_working_version_passes(stack: Stack, lambda_context: Context, name: FunctionName) -> None:
    module_name, _, handler = FUNCTIONS[name].handler.rpartition(".")
    module = importlib.import_module(module_name)
    stack.use(name.removeprefix("background."))
    check = check_of(name)
    answer = getattr(module, handler)(json.loads(json.dumps(check.event)), lambda_context)
    assert differs(json.dumps(answer).encode(), json.loads(json.dumps(check.expected))) == ""
    for table in stack.tables.values():
        assert stack.aws("dynamodb").scan(TableName=table)["Items"] == []

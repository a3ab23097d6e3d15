"""Records the AWS calls of a deployed function in a file beside this one, a line for each kind, once a process.

Python itself loads it in every process whose PYTHONPATH has this folder (a copy of it, in the e2e ring: one file a
process, `<pid>.jsonl`). It needs nothing but the standard library, touches neither the function's code nor its package,
and hears botocore only once the function has imported it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

NAMED = (
    *("TableName", "IndexName", "QueueUrl", "SecretId", "Bucket", "Key", "VersionId"),
    *("FromEmailAddress", "ConfigurationSetName", "KeyId", "topic", "target"),
)
"""Parameters that name resources; no other leaves the process."""
VARIABLES = (
    *("_TABLE", "_QUEUE_URL", "_SECRET_ARN", "_KEY_ARN", "_ROLE_ARN", "_BUCKET"),
    *("MAIL_SENDER", "MAIL_CONFIGURATION_SET"),
)
_written: set[str] = set()


def named(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that name resources."""
    kept: dict[str, Any] = {name: params[name] for name in NAMED if isinstance(params.get(name), str)}
    if "RequestItems" in params:
        kept["RequestItems"] = {table: {} for table in params["RequestItems"]}
    if "TransactItems" in params:
        kept["TransactItems"] = [
            {kind: {"TableName": part["TableName"]} for kind, part in item.items()} for item in params["TransactItems"]
        ]
    if "Statement" in params:
        kept["Statement"] = _target(params["Statement"])
    if "Statements" in params:
        kept["Statements"] = [{"Statement": _target(each["Statement"])} for each in params["Statements"]]
    if "targets" in params:
        kept["targets"] = list(params["targets"])
    if "presignedUrlConfig" in params:
        kept["presignedUrlConfig"] = {"roleArn": params["presignedUrlConfig"]["roleArn"]}
    if "Delete" in params:
        objects = params["Delete"]["Objects"]
        kept["Delete"] = {"Objects": [{k: each[k] for k in ("Key", "VersionId") if each.get(k)} for each in objects]}
    return kept


def _target(statement: str) -> str:
    """Return the beginning of a PartiQL statement, up to its table."""
    verb, table, _ = statement.split('"', 2)
    return f'{verb}"{table}" '


def record(params: Mapping[str, Any], model: Any, **_: Any) -> None:
    """Receive botocore's event before a call's parameters are written out."""
    function = os.environ.get("POWERTOOLS_SERVICE_NAME")
    if not function:
        return
    line = json.dumps(
        {
            "function": function,
            "service": model.service_model.service_name,
            "operation": model.name,
            "params": named(params),
            "environment": {name: value for name, value in os.environ.items() if name.endswith(VARIABLES)},
        },
        sort_keys=True,
    )
    if line not in _written:
        _written.add(line)
        with Path(__file__).with_name(f"{os.getpid()}.jsonl").open("a") as file:
            file.write(line + "\n")


class Listener(importlib.abc.MetaPathFinder):
    """Finds botocore's handlers where Python would, and adds one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer None for every other module."""
        if fullname != "botocore.handlers":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_listen(module: ModuleType) -> None:
            load(module)
            module.BUILTIN_HANDLERS.append(("before-parameter-build", record))

        spec.loader.exec_module = load_and_listen  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Listener())

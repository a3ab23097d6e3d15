"""Checks a new version before CodeDeploy moves traffic to it, by one call with an event that changes nothing.

Ships as inline code of the stack (infra/constructs/release.py), so: the standard library, the runtime's boto3, 4 KB.
"""

import json
import os
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

CONFIG = Config(connect_timeout=5, read_timeout=45, retries={"total_max_attempts": 1})


def lambda_handler(event: dict[str, str], _context: object) -> dict[str, str]:
    """Invoke VERSION_ARN with EVENT and report `Succeeded` if it answers as EXPECTED says, else `Failed`."""
    problem = call(os.environ["VERSION_ARN"], os.environ["EVENT"], json.loads(os.environ["EXPECTED"]))
    status = "Failed" if problem else "Succeeded"
    print(json.dumps({"message": "release.checked", "version": os.environ["VERSION_ARN"], "problem": problem}))
    boto3.client("codedeploy", config=CONFIG).put_lifecycle_event_hook_execution_status(
        deploymentId=event["DeploymentId"],
        lifecycleEventHookExecutionId=event["LifecycleEventHookExecutionId"],
        status=status,
    )
    return {"status": status}


def call(version: str, event: str, expected: dict[str, list[Any]]) -> str:
    """Call a version and return the error in its answer, "" when there is none."""
    try:
        answer = boto3.client("lambda", config=CONFIG).invoke(FunctionName=version, Payload=event.encode())
        body = answer["Payload"].read()
    except (BotoCoreError, ClientError) as exc:
        return f"cannot be called: {type(exc).__name__}"
    if error := answer.get("FunctionError"):
        return f"raised: {error}"
    return differs(body, expected)


def differs(body: bytes, expected: dict[str, list[Any]]) -> str:
    """Compare members of the answer with their allowed values; of a stream only the head counts."""
    try:
        document, _ = json.JSONDecoder().raw_decode(body.decode("utf-8", "replace"))
    except ValueError:
        return "answered no JSON"
    for name, values in expected.items():
        found = document.get(name) if isinstance(document, dict) else None
        if found not in values:
            return f"answered {name} {found!r}"
    return ""

"""Deploys synthesized stacks to an engine on this machine by CloudFormation's change sets.

Further steps for one engine are in the class derived from `Stacks`: `local.adapter` for the embedded one.
"""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.config import LOCAL_ASSET_BUCKET
from local.engine import Engine
from local.errors import LocalError
from local.upstream import Upstream
from local.waiting import Pace, until

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_s3 import S3Client

AT_ONCE = 2
"""Functions that are started at the same time."""
RUNS_AT_ONCE = 5
"""Processes that execute runs without a stream: an account has less than half of them, as on AWS, and so two. They wait
for a model more than they work."""
_DEPLOY_S = 300
"""Seconds for a deployment: a busy machine may take two minutes for ten seconds' work."""
_CONFIG = Config(
    connect_timeout=3,
    read_timeout=120,
    retries={"total_max_attempts": 2, "mode": "standard"},
    s3={"addressing_style": "path"},
    max_pool_connections=16,
)


@dataclass(frozen=True)
class StackFiles:
    """One synthesized stack."""

    name: str
    template: Mapping[str, Any]
    assets: Sequence[tuple[Path, str, str]]
    """(file, bucket, key) of each archive that the template refers to."""
    digest: str
    """Digest of the template; assets are named by their own digests, so it covers them."""


class Stacks(ABC):
    """Deploys synthesized stacks to one engine."""

    def __init__(self, engine: Engine, *, access_key: str = "test") -> None:
        self._engine = engine
        self._session = boto3.session.Session(
            aws_access_key_id=access_key,
            aws_secret_access_key="test",  # noqa: S106
            region_name=engine.region,
        )
        self._clients: dict[str, Any] = {}
        self._pace = Pace(lambda: self.client("sts").get_caller_identity(), print)
        self._memory = engine.places.state / "deployed.json"

    def client(self, service: str) -> Any:
        """Return a client of the engine's services, as root of the account."""
        if service not in self._clients:
            self._clients[service] = self._session.client(  # type: ignore[call-overload]
                service, endpoint_url=self._engine.endpoint_url, config=_CONFIG
            )
        return self._clients[service]

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    # Of each engine's own

    @abstractmethod
    def stage_settings(self) -> dict[str, object]:
        """Return the engine's values for the stage's settings file (fields of `infra.config.Overrides`)."""

    @abstractmethod
    def api(self, outputs: Mapping[str, str]) -> Upstream:
        """Return the address of the API."""

    @abstractmethod
    def billing_webhook(self, outputs: Mapping[str, str]) -> Upstream:
        """Return the address of Stripe's webhook."""

    @abstractmethod
    def function_credentials(self, name: str) -> dict[str, str]:
        """Return the credentials under which the engine runs a function, as environment variables."""

    # Of those engines that need it: the others have nothing to do here.

    def before_start(self) -> None:  # noqa: B027
        """Prepare the engine's state while it does not run."""

    def after_restart(self) -> None:  # noqa: B027
        """Repair what the engine's restart broke."""

    def _complete(self, stack: StackFiles) -> None:  # noqa: B027
        """Set properties that the engine does not take from a template."""

    # Deployment

    def deploy(self, assembly: Path, say: Callable[[str], None]) -> dict[str, str]:
        """Bring every stack of a cloud assembly to the engine, in its order; return all outputs in one mapping.

        Stacks whose template is the deployed one are left alone.

        Raises:
            LocalError: a stack fails; the message has the engine's reasons.
        """
        stacks = read_assembly(assembly)
        deployed = self._deployed()
        with ThreadPoolExecutor(max_workers=2) as pool:
            uploads = {
                stack.name: [pool.submit(self._upload, *asset) for asset in stack.assets]
                for stack in stacks
                if deployed.get(stack.name) != stack.digest
            }
            for stack in stacks:
                if stack.name not in uploads:
                    say(f"{stack.name}: unchanged")
                    continue
                began = time.monotonic()
                for upload in uploads[stack.name]:
                    upload.result()
                self._apply(stack)
                self._complete(stack)
                deployed[stack.name] = stack.digest
                self._memory.write_text(json.dumps(deployed, indent=1))
                count = len(stack.template["Resources"])
                say(f"{stack.name}: {count} resources in {time.monotonic() - began:.1f} s")
        return self.outputs([stack.name for stack in stacks])

    def outputs(self, names: Sequence[str]) -> dict[str, str]:
        """Return the outputs of the named stacks together."""
        cloudformation: CloudFormationClient = self.client("cloudformation")
        found: dict[str, str] = {}
        for name in names:
            for output in cloudformation.describe_stacks(StackName=name)["Stacks"][0].get("Outputs", []):
                found[output["OutputKey"]] = output["OutputValue"]
        return found

    def _deployed(self) -> dict[str, str]:
        """Return the digest of each stack that the engine really has; its state may have been deleted."""
        if not self._memory.exists():
            return {}
        remembered = json.loads(self._memory.read_text())
        cloudformation: CloudFormationClient = self.client("cloudformation")
        living = {
            stack["StackName"]
            for stack in cloudformation.describe_stacks()["Stacks"]
            if stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
        }
        return {str(name): str(digest) for name, digest in remembered.items() if name in living}

    def _upload(self, file: Path, bucket: str, key: str) -> None:
        s3: S3Client = self.client("s3")
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
            s3.create_bucket(Bucket=bucket)
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except ClientError as absent:
            if absent.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            s3.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())

    def _apply(self, stack: StackFiles) -> None:
        cloudformation: CloudFormationClient = self.client("cloudformation")
        kind = "UPDATE" if self._status(stack.name) is not None else "CREATE"
        if kind == "UPDATE" and self._status(stack.name) not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            # A first deployment that failed can only be deleted.
            cloudformation.delete_stack(StackName=stack.name)
            until(
                lambda: self._status(stack.name) is None,
                deadline_s=_DEPLOY_S,
                pace=self._pace,
                what=f"deletion of {stack.name}",
            )
            kind = "CREATE"
        change_set = f"local-{stack.digest[:16]}-{int(time.monotonic() * 1000)}"
        cloudformation.create_change_set(
            StackName=stack.name,
            ChangeSetName=change_set,
            ChangeSetType="UPDATE" if kind == "UPDATE" else "CREATE",
            TemplateURL=self._template_url(stack),
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
        )

        def created() -> str | None:
            found = cloudformation.describe_change_set(StackName=stack.name, ChangeSetName=change_set)
            return found["Status"] if found["Status"] in ("CREATE_COMPLETE", "FAILED") else None

        if until(created, deadline_s=_DEPLOY_S, pace=self._pace, what=f"change set of {stack.name}") == "FAILED":
            found = cloudformation.describe_change_set(StackName=stack.name, ChangeSetName=change_set)
            reason = found.get("StatusReason", "")
            if not found.get("Changes") and kind == "UPDATE":
                return
            raise LocalError(f"the engine refuses stack {stack.name}: {reason}")
        cloudformation.execute_change_set(StackName=stack.name, ChangeSetName=change_set)

        def settled() -> str | None:
            status = self._status(stack.name)
            return status if status is not None and not status.endswith("_IN_PROGRESS") else None

        status = until(settled, deadline_s=_DEPLOY_S, pace=self._pace, what=f"stack {stack.name}")
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            reasons = "\n  ".join(self._failures(stack.name))
            raise LocalError(f"stack {stack.name} ended in {status}:\n  {reasons}")

    def _template_url(self, stack: StackFiles) -> str:
        """Store a template where CloudFormation reads it: a request may have 51,200 bytes, an object a million."""
        s3: S3Client = self.client("s3")
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
            s3.create_bucket(Bucket=LOCAL_ASSET_BUCKET)
        key = f"{stack.name}-{stack.digest}.template.json"
        s3.put_object(Bucket=LOCAL_ASSET_BUCKET, Key=key, Body=json.dumps(stack.template).encode())
        return f"{self._engine.endpoint_url}/{LOCAL_ASSET_BUCKET}/{key}"

    def _status(self, name: str) -> str | None:
        try:
            found = self.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
        except ClientError as absent:
            if absent.response["Error"]["Code"] != "ValidationError":
                raise
            return None
        status = str(found[0]["StackStatus"]) if found else None
        return None if status in ("DELETE_COMPLETE", "REVIEW_IN_PROGRESS") else status

    def _failures(self, name: str) -> Iterator[str]:
        for event in self.client("cloudformation").describe_stack_events(StackName=name)["StackEvents"]:
            if event["ResourceStatus"].endswith("FAILED"):
                yield f"{event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason', '')}"

    def _physical_ids(self, stack: str) -> dict[str, str]:
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
        return {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for page in pages
            for resource in page["StackResourceSummaries"]
        }

    # Functions

    def warm(self, events: Mapping[str, Mapping[str, Any]], say: Callable[[str], None]) -> None:
        """Invoke each function once with an event that changes nothing, two at a time, so that its instance is up."""

        def call(name: str) -> tuple[str, float, str]:
            began = time.monotonic()
            answer = self.client("lambda").invoke(FunctionName=name, Payload=json.dumps(events[name]).encode())
            detail = answer["Payload"].read().decode(errors="replace") if answer.get("FunctionError") else ""
            return name, time.monotonic() - began, detail

        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            for name, seconds, error in pool.map(call, events):
                if error:
                    raise LocalError(f"function {name} does not start: {error[:2000]}")
                say(f"{name} is up ({seconds:.1f} s)")

    def function_environment(self, name: str) -> dict[str, str]:
        """Return the variables of a deployed function."""
        configuration = self.client("lambda").get_function_configuration(FunctionName=name)
        return dict(configuration.get("Environment", {}).get("Variables", {}))


def read_assembly(folder: Path) -> list[StackFiles]:
    """Read the stacks of a cloud assembly in the order in which they may be deployed."""
    manifest = json.loads((folder / "manifest.json").read_text())["artifacts"]
    stacks = {name: artifact for name, artifact in manifest.items() if artifact["type"] == "aws:cloudformation:stack"}
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        for needed in stacks[name].get("dependencies", []):
            if needed in stacks:
                visit(needed)
        ordered.append(name)

    for name in stacks:
        visit(name)
    return [_read_stack(folder, name, stacks[name]["properties"]["templateFile"]) for name in ordered]


def _read_stack(folder: Path, name: str, template_file: str) -> StackFiles:
    text = (folder / template_file).read_text()
    listed = folder / f"{name}.assets.json"
    assets: list[tuple[Path, str, str]] = []
    if listed.exists():
        for file in json.loads(listed.read_text())["files"].values():
            path = folder / file["source"]["path"]
            if path.name.endswith(".template.json"):
                continue
            assets.extend((path, to["bucketName"], to["objectKey"]) for to in file["destinations"].values())
    return StackFiles(name, json.loads(text), assets, hashlib.sha256(text.encode()).hexdigest())

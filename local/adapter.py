"""The only code that knows the quirks of the embedded engine (MiniStack 1.5.33).

What it does beyond CloudFormation:

| quirk | what is done here |
| --- | --- |
| asset buckets do not exist | made, and archives uploaded under the names that the templates use |
| time to live of tables is dropped from templates | `UpdateTimeToLive` after deployment |
| CORS of HTTP APIs is dropped | `UpdateApi` after deployment |
| stream mappings skip records after a restart of the engine | deleted and made anew, from the oldest record |
| every request in flight starts a function instance, which takes about a second | `warm` calls each function once, |
| | queue mappings run two batches at a time, `local.front` lets two requests through |
| `iot:AttachPolicy`, `iot:DetachPolicy` and `ses:SendEmail` are checked against `*`, not the certificate or the
| | identity | roles that may do so get that |
| archives are unpacked for each function instance, thousands of files at 1 ms each under one lock | packages are
| | unpacked once, in `build/unpacked`; what is uploaded points there |
| queues are known by their URL, with the engine's port | `move_state` rewrites the saved state for another port |
| hosts such as `<api>.execute-api.localhost` do not resolve | addresses by path |
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
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
from local.engine import MiniStack
from local.errors import LocalError
from local.waiting import until

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_s3 import S3Client

_DEPLOY_S = 120
_AT_ONCE = 2
_MANY_FILES = 300
_UNPACKED_KEPT = 16
_CONFIG = Config(
    connect_timeout=3,
    read_timeout=120,
    retries={"total_max_attempts": 2, "mode": "standard"},
    s3={"addressing_style": "path"},
    max_pool_connections=16,
)
_TABLE_TYPES = ("AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable")


@dataclass(frozen=True)
class StackFiles:
    """One synthesized stack."""

    name: str
    template: Mapping[str, Any]
    assets: Sequence[tuple[Path, str, str]]
    """(file, bucket, key) of each archive that the template refers to."""
    digest: str
    """Of the template; assets are named after their own digests, so it covers them."""


class Adapter:
    """Deploys synthesized stacks to one engine."""

    def __init__(self, engine: MiniStack, *, access_key: str = "test") -> None:
        self._engine = engine
        self._session = boto3.session.Session(
            aws_access_key_id=access_key,
            aws_secret_access_key="test",  # noqa: S106
            region_name=engine.region,
        )
        self._clients: dict[str, Any] = {}
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
            # Also for stacks that stay: what their functions point to may have been removed.
            list(pool.map(self._unpacked, {asset[0] for stack in stacks for asset in stack.assets}))
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
                self._set_dropped_properties(stack)
                deployed[stack.name] = stack.digest
                self._memory.write_text(json.dumps(deployed, indent=1))
                count = len(stack.template["Resources"])
                say(f"{stack.name}: {count} resources in {time.monotonic() - began:.1f} s")
        self._forget_unpacked()
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
        """Return stack -> digest of what the engine really holds; its state may have been thrown away."""
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
            s3.put_object(Bucket=bucket, Key=key, Body=self._linked(file))

    def _linked(self, file: Path) -> bytes:
        """Return the archive with a large `python/` folder replaced by a pointer to where it is unpacked.

        A layer's pointer is a `.pth` file, which the engine's Python workers read; a custom runtime's is
        `sitecustomize`, which its interpreter imports from `python/`.
        """
        tree = self._unpacked(file)
        if tree is None:
            return file.read_bytes()
        linked = io.BytesIO()
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(linked, "w", zipfile.ZIP_DEFLATED) as out:
            for info in archive.infolist():
                if not info.filename.startswith("python/"):
                    out.writestr(info, archive.read(info))
            pointer = f"import sys; sys.path.insert({{}}, {str(tree / 'python')!r})\n"
            version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
            out.writestr(f"python/lib/{version}/site-packages/unpacked.pth", pointer.format(0))
            # After the function's own folder, as the packages were.
            out.writestr("python/sitecustomize.py", pointer.format(1))
        return linked.getvalue()

    def _unpacked(self, file: Path) -> Path | None:
        """Unpack an archive with many packages, unless it was; return where, None for a small one.

        All environments share the result: an archive's name is its content's digest.
        """
        with zipfile.ZipFile(file) as archive:
            if sum(name.startswith("python/") for name in archive.namelist()) < _MANY_FILES:
                return None
        tree = self._engine.places.unpacked / file.stem
        if not tree.exists():
            scratch = tree.with_name(f"{tree.name}.{os.getpid()}")
            # A process of its own: threads would wait for each other's turn at every one of the files.
            command = [sys.executable, "-m", "zipfile", "-e", str(file), str(scratch)]
            subprocess.run(command, check=True)
            try:
                scratch.rename(tree)
            except OSError:
                # Another environment was faster.
                shutil.rmtree(scratch)
        tree.touch()
        return tree

    def _forget_unpacked(self) -> None:
        """Remove all but the trees used last."""
        trees = sorted(self._engine.places.unpacked.glob("*"), key=lambda tree: tree.stat().st_mtime, reverse=True)
        for tree in trees[_UNPACKED_KEPT:]:
            shutil.rmtree(tree, ignore_errors=True)

    def _apply(self, stack: StackFiles) -> None:
        cloudformation: CloudFormationClient = self.client("cloudformation")
        kind = "UPDATE" if self._status(stack.name) is not None else "CREATE"
        if kind == "UPDATE" and self._status(stack.name) not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            # A first deployment that failed can only be deleted.
            cloudformation.delete_stack(StackName=stack.name)
            until(lambda: self._status(stack.name) is None, deadline_s=_DEPLOY_S, what=f"deletion of {stack.name}")
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

        if until(created, deadline_s=_DEPLOY_S, what=f"change set of {stack.name}") == "FAILED":
            found = cloudformation.describe_change_set(StackName=stack.name, ChangeSetName=change_set)
            reason = found.get("StatusReason", "")
            if not found.get("Changes") and kind == "UPDATE":
                return
            raise LocalError(f"the engine refuses stack {stack.name}: {reason}")
        cloudformation.execute_change_set(StackName=stack.name, ChangeSetName=change_set)

        def settled() -> str | None:
            status = self._status(stack.name)
            return status if status is not None and not status.endswith("_IN_PROGRESS") else None

        status = until(settled, deadline_s=_DEPLOY_S, what=f"stack {stack.name}")
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            reasons = "\n  ".join(self._failures(stack.name))
            raise LocalError(f"stack {stack.name} ended in {status}:\n  {reasons}")

    def _template_url(self, stack: StackFiles) -> str:
        """Put a template where CloudFormation reads it: a request's body holds 51,200 bytes, an object a million."""
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

    # What templates say and the engine does not hear

    def _set_dropped_properties(self, stack: StackFiles) -> None:
        physical = self._physical_ids(stack.name)
        for logical, resource in stack.template["Resources"].items():
            properties = resource.get("Properties", {})
            if resource["Type"] in _TABLE_TYPES and "TimeToLiveSpecification" in properties:
                self._set_time_to_live(physical[logical], properties["TimeToLiveSpecification"]["AttributeName"])
            if resource["Type"] == "AWS::ApiGatewayV2::Api" and "CorsConfiguration" in properties:
                self.client("apigatewayv2").update_api(
                    ApiId=physical[logical], CorsConfiguration=properties["CorsConfiguration"]
                )
            if resource["Type"] == "AWS::Lambda::EventSourceMapping" and "ScalingConfig" in properties:
                self.client("lambda").update_event_source_mapping(
                    UUID=physical[logical], ScalingConfig={"MaximumConcurrency": _AT_ONCE}
                )
            if resource["Type"] == "AWS::IAM::Role":
                self._widen_policy_attachment(physical[logical], properties)

    def _physical_ids(self, stack: str) -> dict[str, str]:
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
        return {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for page in pages
            for resource in page["StackResourceSummaries"]
        }

    def _set_time_to_live(self, table: str, attribute: str) -> None:
        dynamodb = self.client("dynamodb")
        current = dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        if current.get("TimeToLiveStatus") != "ENABLED":
            dynamodb.update_time_to_live(
                TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": attribute}
            )

    def _widen_policy_attachment(self, role: str, properties: Mapping[str, Any]) -> None:
        granted = {
            action
            for policy in properties.get("Policies", [])
            for statement in policy["PolicyDocument"]["Statement"]
            for action in _listed(statement["Action"])
        }
        checked_against_all = sorted(granted & {"iot:AttachPolicy", "iot:DetachPolicy", "ses:SendEmail"})
        if checked_against_all:
            statement = {"Effect": "Allow", "Action": checked_against_all, "Resource": "*"}
            self.client("iam").put_role_policy(
                RoleName=role,
                PolicyName="local-engine",
                PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
            )

    def resume_streams(self) -> int:
        """Make the mappings of DynamoDB streams anew; needed after the engine was restarted. Return how many.

        The engine forgets stream records when it stops but remembers how many a mapping had read, and would skip as
        many of the new ones.
        """
        functions = self.client("lambda")
        found = 0
        for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
            if ":dynamodb:" not in mapping["EventSourceArn"]:
                continue
            kept = {
                name: mapping[name]
                for name in (
                    "EventSourceArn",
                    "BatchSize",
                    "MaximumBatchingWindowInSeconds",
                    "BisectBatchOnFunctionError",
                    "MaximumRetryAttempts",
                    "MaximumRecordAgeInSeconds",
                    "FunctionResponseTypes",
                    "DestinationConfig",
                    "FilterCriteria",
                )
                if mapping.get(name)
            }
            functions.delete_event_source_mapping(UUID=mapping["UUID"])
            functions.create_event_source_mapping(
                FunctionName=mapping["FunctionArn"], StartingPosition="TRIM_HORIZON", **kept
            )
            found += 1
        return found

    # Functions

    def warm(self, events: Mapping[str, Mapping[str, Any]], say: Callable[[str], None]) -> None:
        """Invoke each function once with an event that changes nothing, two at a time, so that its instance is up."""

        def call(name: str) -> tuple[str, float, str]:
            began = time.monotonic()
            answer = self.client("lambda").invoke(FunctionName=name, Payload=json.dumps(events[name]).encode())
            detail = answer["Payload"].read().decode(errors="replace") if answer.get("FunctionError") else ""
            return name, time.monotonic() - began, detail

        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            for name, seconds, error in pool.map(call, events):
                if error:
                    raise LocalError(f"function {name} does not start: {error[:2000]}")
                say(f"{name} is up ({seconds:.1f} s)")

    def function_environment(self, name: str) -> dict[str, str]:
        """Return the variables of a deployed function."""
        configuration = self.client("lambda").get_function_configuration(FunctionName=name)
        return dict(configuration.get("Environment", {}).get("Variables", {}))

    def function_credentials(self, name: str) -> dict[str, str]:
        """Return the credentials under which the engine itself runs a function, as environment variables.

        The function has to have been invoked since the engine started. They are derived from the function and its
        role (`ministack.core.lambda_runtime.execution_credentials`), do not expire, and carry the role's grants.
        """
        configuration = self.client("lambda").get_function_configuration(FunctionName=name)
        digest = hashlib.sha256(f"{configuration['FunctionArn']}:{configuration['Role']}".encode()).hexdigest()
        return {
            "AWS_ACCESS_KEY_ID": f"ASIA{digest[:16].upper()}",
            "AWS_SECRET_ACCESS_KEY": hashlib.sha256(f"secret:{digest}".encode()).hexdigest(),
            "AWS_SESSION_TOKEN": hashlib.sha256(f"token:{digest}".encode()).hexdigest(),
        }

    # Addresses

    def http_api_url(self, api_id: str) -> str:
        """Return where the engine serves an HTTP API's `$default` stage, without a trailing slash."""
        return f"{self._engine.endpoint_url}/_aws/execute-api/{api_id}/$default"

    def websocket_url(self, api_id: str, stage: str) -> str:
        """Return where the engine serves a WebSocket API."""
        return f"ws://localhost:{self._engine.port}/_aws/execute-api/{api_id}/{stage}"


def move_state(engine: MiniStack) -> None:
    """Make the saved state of an engine that is about to start fit its port, where that is not the one of last time.

    The engine files queues under their URLs, and copies those into mappings, rules and functions' variables.
    """
    marker = engine.places.state / "engine-port"
    was = marker.read_text() if marker.exists() else ""
    if was and was != str(engine.port):
        for file in (engine.places.state / "engine").glob("*.json"):
            text = file.read_text()
            moved = re.sub(rf"\b(localhost|127\.0\.0\.1):{was}\b", rf"\g<1>:{engine.port}", text)
            if moved != text:
                file.write_text(moved)
    marker.write_text(str(engine.port))


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


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

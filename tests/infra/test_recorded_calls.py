"""A role holds what its function calls and no more: golden/calls.json, recorded in the integration ring, is the proof.

What Lambda does with the role by itself (poll, report failures, write logs and traces) is read from the template.
Policies are judged by the engine that enforces them in the e2e ring.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.catalog import FunctionName
from infra.config import Stage
from local.engine import MiniStack
from tests.infra.roles import Judge, Role, roles
from tests.infra.synthesized import Json, Stages, Synthesized
from tests.support.recorded_calls.needs import ANY, Need
from tests.support.recorded_calls.plugin import read_golden

SUPPORT = Path(__file__).parents[1] / "support/recorded_calls"

CALLS = read_golden()
functions = pytest.mark.parametrize("name", list(FunctionName))


@pytest.fixture(scope="module")
def judge(engine: MiniStack) -> Iterator[Judge]:
    iam = boto3.client(
        "iam",
        endpoint_url=engine.endpoint_url,
        region_name=engine.region,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    yield Judge(iam)
    iam.close()


@pytest.fixture(scope="module")
def role(stages: Stages) -> Callable[[Stage, FunctionName], Role]:
    read = cache(lambda stage: roles(stages.of(stage)))
    return lambda stage, name: read(stage)[name]


Roles = Callable[[Stage, FunctionName], Role]


def everything(role: Role) -> list[Any]:
    return [*role.asked(CALLS[role.function]), *role.by_service]


def without(role: Role, action: str, sid: str) -> Role:
    """Return the role, with one action taken from one statement."""
    changed = json.loads(json.dumps(role.document))
    for statement in changed["Statement"]:
        if statement["Sid"] == sid:
            statement["Action"].remove(action)
    changed["Statement"] = [statement for statement in changed["Statement"] if statement["Action"]]
    return Role(role.function, role.environment, changed, role.by_service)


def with_more(role: Role, **more: list[str]) -> Role:
    """Return the role, with actions or resources added to its first statement."""
    changed = json.loads(json.dumps(role.document))
    for key, values in more.items():
        changed["Statement"][0][key] += values
    return Role(role.function, role.environment, changed, role.by_service)


@functions
@pytest.mark.parametrize("stage", list(Stage))
def test_a_role_allows_what_is_called_with_it(role: Roles, judge: Judge, stage: Stage, name: FunctionName) -> None:
    held = role(stage, name)
    assert judge.missing(held, everything(held)) == []


@functions
@pytest.mark.parametrize("stage", list(Stage))
def test_all_that_a_role_allows_is_called(role: Roles, judge: Judge, stage: Stage, name: FunctionName) -> None:
    held = role(stage, name)
    assert judge.unused(held, everything(held)) == []


@functions
def test_an_action_that_is_taken_away_is_missed(role: Roles, judge: Judge, name: FunctionName) -> None:
    held = role(Stage.PROD, name)
    for statement in held.document["Statement"]:
        for action in statement["Action"]:
            asked = [each for each in everything(held) if each.action == action]
            missed = judge.missing(without(held, action, statement["Sid"]), asked)
            assert missed, f"nobody misses {action} of {statement['Sid']}"
            assert all(each.startswith(f"{action} on ") for each in missed)


@functions
def test_an_action_or_a_resource_that_is_added_is_found(role: Roles, judge: Judge, name: FunctionName) -> None:
    held = role(Stage.PROD, name)
    first = held.document["Statement"][0]
    more = with_more(held, Action=["dynamodb:Scan"])
    assert judge.unused(more, everything(held)) == [f"dynamodb:Scan on {each}" for each in first["Resource"]]
    other = "arn:aws:dynamodb:us-east-1:123456789012:table/Another"
    wider = with_more(held, Resource=[other])
    assert judge.unused(wider, everything(held)) == [f"{action} on {other}" for action in sorted(first["Action"])]


ALLOW = {"Effect": "Allow", "Action": ["dynamodb:GetItem"], "Resource": ["arn:aws:dynamodb:*:*:table/one"]}


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        pytest.param([], False, id="nothing is allowed by default"),
        pytest.param([ALLOW], True, id="an allow that matches"),
        pytest.param([ALLOW, {**ALLOW, "Effect": "Deny"}], False, id="a deny wins"),
        pytest.param([{**ALLOW, "Action": ["DynamoDB:getitem"]}], True, id="actions have no case"),
        pytest.param([{**ALLOW, "Resource": ["arn:aws:dynamodb:*:*:table/ONE"]}], False, id="resources have"),
        pytest.param([{**ALLOW, "Resource": ["arn:aws:dynamodb:*:*:table/on?"]}], True, id="a question mark"),
        pytest.param([{**ALLOW, "Resource": ["arn:aws:dynamodb:*:*:table/one/*"]}], False, id="below is not the thing"),
        pytest.param([{**ALLOW, "Action": ["dynamodb:Get"]}], False, id="a prefix is no pattern"),
    ],
)
def test_the_judge_knows_the_rules_of_iam(judge: Judge, statements: list[Json], expected: bool) -> None:
    iam = judge._iam
    answer = iam.simulate_custom_policy(
        PolicyInputList=[json.dumps({"Version": "2012-10-17", "Statement": statements})],
        ActionNames=["dynamodb:GetItem"],
        ResourceArns=["arn:aws:dynamodb:us-east-1:123456789012:table/one"],
    )
    assert (answer["EvaluationResults"][0]["EvalDecision"] == "allowed") is expected


@cache
def reference() -> Json:
    """Return AWS's Service Authorization Reference of cfn-lint: the resources of each action."""
    read: Json = json.loads((resources.files("cfnlint.data.AdditionalSpecs") / "Policies.json").read_text())
    return read


@pytest.mark.parametrize("need", sorted({need for needs in CALLS.values() for need in needs}), ids=" on ".join)
def test_each_call_is_asked_about_as_awss_reference_says(need: Need) -> None:
    service, _, action = need.action.partition(":")
    known = {each.lower() for each in reference()[service]["Actions"][action.lower()].get("Resources", [])}
    kind, _, name = need.resource.partition("/")
    if kind == "ses":
        kind = {"sender": "identity", "configuration": "configuration-set"}[name]
    if kind == "websocket":
        kind = "execute-api-general"
    assert kind in known if known else need.resource == ANY


def test_no_key_asks_who_uses_it(prod: Synthesized) -> None:
    """Tables, queues, buckets and secrets have keys of their services, for which no function needs a right of KMS."""
    for kind in ("AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::S3::Bucket", "AWS::SecretsManager::Secret"):
        found = prod.of_type(kind)
        assert found
        named = [path for path, each in found.items() if re.search("kms(master)?keyid", str(each), re.IGNORECASE)]
        assert named == [], "whoever uses it needs kms:Decrypt: grant it, and list it with what services call"


def test_what_decides_about_a_call_leaves_a_deployed_process_too() -> None:
    """A name that its recorder forgot would be missed by the dice alone that make that call there."""
    asked = (SUPPORT / "needs.py").read_text()
    parameters = set(re.findall(r'params(?:\[|\.get\()"(\w+)"', asked))
    variables = set(re.findall(r'told\.of\("(\w+)"', asked))
    told = (SUPPORT / "deployed/sitecustomize.py").read_text()
    endings = re.findall(r'"(\w+)"', told[told.index("\nVARIABLES = ") : told.index("\n_written")])
    assert {name for name in parameters if f'"{name}"' not in told} == set()
    assert {name for name in variables if not name.endswith(tuple(endings))} == set()

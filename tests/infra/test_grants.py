"""Roles hold exactly what infra/grants.py says, and no `*` outside its list."""

import re
from collections.abc import Callable, Iterable, Iterator

import pytest

from infra.catalog import FUNCTIONS, SWEEPS, FunctionName
from infra.config import Stage
from infra.constructs.roles import grants_of
from infra.grants import GRANTS, IOT_RESOURCES, WILDCARDS
from tests.infra.synthesized import Json, Stages, Synthesized, settings_of
from tests.support.recorded_calls.plugin import read_golden

_STORES = frozenset({"table", "index"})
HASH = re.compile(r"[0-9A-F]{8}$")


def readable(synthesized: Synthesized, value: object) -> str:
    """Return a CloudFormation value as a stable text: logical ids without hashes, imports followed to their stack."""
    if isinstance(value, str):
        return value
    assert isinstance(value, dict)
    ((function, argument),) = value.items()
    match function:
        case "Ref":
            return argument if argument.startswith("AWS::") else HASH.sub("", argument)
        case "Fn::GetAtt":
            return f"{HASH.sub('', argument[0])}.{argument[1]}"
        case "Fn::Join":
            separator, parts = argument
            joined: str = separator.join(readable(synthesized, part) for part in parts)
            return joined
        case "Fn::ImportValue":
            part = argument.partition(":")[0].rpartition("-")[2]
            outputs = synthesized.templates[part]["Outputs"].values()
            (found,) = [item["Value"] for item in outputs if item.get("Export", {}).get("Name") == argument]
            return f"{part}/{readable(synthesized, found)}"
    raise AssertionError(f"unexpected {function}")


def function_roles(synthesized: Synthesized) -> Iterator[tuple[FunctionName, Json]]:
    for name, properties in synthesized.functions().items():
        role_id = properties["Role"]["Fn::GetAtt"][0]
        yield name, synthesized.templates["app"]["Resources"][role_id]["Properties"]


def statements(synthesized: Synthesized, role: Json) -> Iterator[tuple[str, list[str], list[str]]]:
    for policy in role["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Allow"
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            yield statement["Sid"], actions, [readable(synthesized, item) for item in resources]


def test_roles_match_the_golden_map(prod: Synthesized, assert_golden: Callable[[str, object], None]) -> None:
    actual: dict[str, dict[str, list[str]]] = {}
    for name, role in function_roles(prod):
        held = actual.setdefault(name.value, {})
        for _sid, actions, resources in statements(prod, role):
            for resource in resources:
                held[resource] = sorted({*held.get(resource, []), *actions})
    assert_golden("grants.json", actual)


def test_roles_hold_what_the_table_says(stages: Stages) -> None:
    for stage in Stage:
        synthesized = stages.of(stage)
        for name, role in function_roles(synthesized):
            held = sorted(action for _sid, actions, _resources in statements(synthesized, role) for action in actions)
            wanted = sorted(action for grant in grants_of(name, synthesized.settings) for action in grant.actions)
            assert held == wanted, name


def test_every_function_has_a_role_of_its_own(prod: Synthesized) -> None:
    roles = [properties["Role"]["Fn::GetAtt"][0] for properties in prod.functions().values()]
    assert len(set(roles)) == len(FUNCTIONS) == len(roles)
    policies = prod.of_type("AWS::IAM::Policy") | prod.of_type("AWS::IAM::ManagedPolicy")
    assert policies == {}, "rights come from infra/grants.py, not from a helper of CDK"
    assert all("ManagedPolicyArns" not in role for _name, role in function_roles(prod))


def test_no_action_is_a_pattern_and_nobody_scans(aws: Synthesized) -> None:
    for name, role in function_roles(aws):
        for _sid, actions, _resources in statements(aws, role):
            assert not [action for action in actions if "*" in action], name
            assert "dynamodb:Scan" not in actions, name
            # AWS IoT signs links for the jobs of rollouts by a role of its own, which reads releases and nothing else.
            assert name is FunctionName.FIRMWARE_SWEEP or "iam:PassRole" not in actions, name
            # A batch of writes knows no conditions; what is left of a deleted account needs none.
            assert name is FunctionName.DELETION or "dynamodb:BatchWriteItem" not in actions, name


def test_sweeps_share_a_role_when_they_need_the_same_services() -> None:
    """A sweep that needs others moves to another function of infra/catalog.py (docs/adr/0041)."""
    services = {
        name: {action.partition(":")[0] for grant in GRANTS[name] for action in grant.actions}
        for name in SWEEPS.values()
    }
    assert services == {
        FunctionName.QUEUE_SWEEPS: {"dynamodb", "sqs"},
        FunctionName.TABLE_SWEEPS: {"dynamodb"},
        FunctionName.FILE_SWEEP: {"dynamodb", "sqs", "s3"},
        FunctionName.DEVICE_SWEEP: {"dynamodb", "s3", "iot"},
        FunctionName.FIRMWARE_SWEEP: {"dynamodb", "iot", "iam"},
    }


def _tables(resources: Iterable[str]) -> set[str]:
    return {name for kind, name, *_ in (each.split("/") for each in resources if "/" in each) if kind in _STORES}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_told_of_the_tables_that_it_may_use_and_that_tests_saw_it_use(name: FunctionName) -> None:
    """A table that is granted and not told is dead in a deployed function, whatever a test's process has bound."""
    told = {each.removesuffix("_TABLE").lower() for each in FUNCTIONS[name].environment if each.endswith("_TABLE")}
    granted = _tables(grant.resource for grant in GRANTS[name])
    seen = _tables(need.resource for need in read_golden()[name])
    assert told == granted, f"make `environment` of {name} in infra/catalog.py and its grants in infra/grants.py agree"
    assert told == seen, f"no test of the integration ring saw {name} use exactly the tables that it is told of"


def test_a_star_in_a_resource_is_on_the_list(aws: Synthesized) -> None:
    listed = {"".join(part.capitalize() for part in re.split("[/-]", resource)): resource for resource in WILDCARDS}
    for name, role in function_roles(aws):
        for sid, _actions, resources in statements(aws, role):
            if any("*" in item for item in resources):
                assert sid in listed, f"{name}: {sid} has a wildcard that infra/grants.py does not list"


def test_no_other_role_has_a_star(aws: Synthesized) -> None:
    functions = {properties["Role"]["Fn::GetAtt"][0] for properties in aws.functions().values()}
    for path, resource in aws.of_type("AWS::IAM::Role").items():
        if path.partition("/")[2] in functions:
            continue
        for _sid, actions, resources in (
            ("", statement["Action"], statement["Resource"])
            for policy in resource["Properties"].get("Policies", [])
            for statement in policy["PolicyDocument"]["Statement"]
        ):
            assert "*" not in str(actions), path
            if "FirmwareReader" in path:
                assert str(resources).count("*") == 1, "objects of one prefix"
                assert str(resources).rstrip("'}]").endswith("/firmware/*")
            elif "FleetRole" in path:
                # What is made at run time: things, and certificates.
                assert set(re.findall(r"\w+/\*", str(resources))) <= {"thing/*", "cert/*"}
            else:
                assert "*" not in str(resources), path


def test_each_wildcard_has_a_reason_and_a_use() -> None:
    settings = settings_of(Stage.PROD)
    used = {grant.resource for name in GRANTS for grant in grants_of(name, settings)}
    assert set(WILDCARDS) <= used
    assert set(IOT_RESOURCES) <= set(WILDCARDS)
    assert all(len(reason) > 20 for reason in WILDCARDS.values())


@pytest.mark.parametrize("name", list(FunctionName))
def test_a_function_may_reach_each_resource_that_its_environment_names(name: FunctionName) -> None:
    granted = {grant.resource for grant in GRANTS[name]}
    for variable in FUNCTIONS[name].environment:
        if variable.endswith("_TABLE"):
            assert f"table/{variable.removesuffix('_TABLE').lower()}" in granted
        if variable.endswith("_SECRET_ARN"):
            assert f"secret/{variable.removesuffix('_SECRET_ARN').lower().replace('_', '-')}" in granted
        if variable.endswith("_QUEUE_URL"):
            assert f"queue/{variable.removesuffix('_QUEUE_URL').lower().replace('_', '-')}" in granted

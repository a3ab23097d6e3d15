"""Stateful things are encrypted, private, recoverable, and survive where they must."""

import json

import pytest

from infra.catalog import INDEXED_TABLES, STREAMED_TABLES, TableName
from infra.config import Overrides, SettingsError, Stage, stage_settings
from infra.constructs.file_bucket import ARCHIVE_DAYS
from karma.billing.plans import all_archived_days
from tests.infra.synthesized import Synthesized


def table_name_of(path: str) -> TableName:
    return next(name for name in TableName if path.startswith(f"data/{name.capitalize()}Table"))


def test_every_table_of_the_catalog_is_there(aws: Synthesized) -> None:
    assert {table_name_of(path) for path in aws.of_type("AWS::DynamoDB::Table", "data")} == set(TableName)


@pytest.mark.req("R-K-02")
def test_tables_are_on_demand_encrypted_expiring_and_unnamed(aws: Synthesized) -> None:
    for path, table in aws.of_type("AWS::DynamoDB::Table").items():
        properties = table["Properties"]
        assert properties["BillingMode"] == "PAY_PER_REQUEST", path
        assert properties["SSESpecification"] == {"SSEEnabled": True}, path
        assert properties["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}, path
        assert properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True, path
        assert [key["AttributeName"] for key in properties["KeySchema"]] == ["pk", "sk"], path
        assert "TableName" not in properties, path


def test_indexes_and_streams_are_where_the_catalog_puts_them(aws: Synthesized) -> None:
    for path, table in aws.of_type("AWS::DynamoDB::Table").items():
        name, properties = table_name_of(path), table["Properties"]
        indexes = properties.get("GlobalSecondaryIndexes", [])
        assert [index["IndexName"] for index in indexes] == (["gsi1"] if name in INDEXED_TABLES else [])
        assert all(index["Projection"] == {"ProjectionType": "ALL"} for index in indexes)
        stream = properties.get("StreamSpecification")
        assert stream == ({"StreamViewType": STREAMED_TABLES[name]} if name in STREAMED_TABLES else None)


def test_prod_data_survives_its_stack(prod: Synthesized) -> None:
    kept = (
        "AWS::DynamoDB::Table",
        "AWS::S3::Bucket",
        "AWS::KMS::Key",
        "AWS::SecretsManager::Secret",
        "AWS::Logs::LogGroup",
    )
    for kind in kept:
        for path, resource in prod.of_type(kind).items():
            if path.startswith("ops/"):
                continue
            assert resource["DeletionPolicy"] == "Retain", path
            assert resource["UpdateReplacePolicy"] == "Retain", path
    for path, table in prod.of_type("AWS::DynamoDB::Table").items():
        assert table["Properties"]["DeletionProtectionEnabled"] is True, path
    manifest = json.loads((prod.folder / "manifest.json").read_text(encoding="utf-8"))
    stacks = [item for item in manifest["artifacts"].values() if item["type"] == "aws:cloudformation:stack"]
    assert len(stacks) == 4
    assert all(stack["properties"]["terminationProtection"] is True for stack in stacks)


def test_buckets_are_private_versioned_and_tls_only(aws: Synthesized) -> None:
    buckets = aws.of_type("AWS::S3::Bucket")
    denied = {
        policy["Properties"]["Bucket"]["Ref"]
        for policy in aws.of_type("AWS::S3::BucketPolicy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny" and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
    }
    for path, bucket in buckets.items():
        properties = bucket["Properties"]
        assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}, path
        assert len(properties["PublicAccessBlockConfiguration"]) == 4, path
        assert properties["BucketEncryption"], path
        assert properties["VersioningConfiguration"] == {"Status": "Enabled"}, path
        assert properties["LifecycleConfiguration"]["Rules"], path
        assert path.partition("/")[2] in denied, path


def test_files_accept_uploads_from_the_stage_origins_only(aws: Synthesized) -> None:
    (files,) = [
        item["Properties"]
        for item in aws.of_type("AWS::S3::Bucket").values()
        if "CorsConfiguration" in item["Properties"]
    ]
    (rule,) = files["CorsConfiguration"]["CorsRules"]
    assert rule["AllowedOrigins"] == list(aws.settings.cors_origins)
    assert "*" not in rule["AllowedOrigins"]


def test_the_vault_key_rotates(aws: Synthesized) -> None:
    for path, key in aws.of_type("AWS::KMS::Key").items():
        assert key["Properties"]["EnableKeyRotation"] is True, path


def test_generated_secrets_are_long_and_others_are_empty(prod: Synthesized) -> None:
    values = {path: item["Properties"] for path, item in prod.of_type("AWS::SecretsManager::Secret").items()}
    generated = [item["GenerateSecretString"] for item in values.values() if "GenerateSecretString" in item]
    assert {item["GenerateStringKey"] for item in generated} == {"k1", "value"}
    assert all(item["PasswordLength"] >= 32 for item in generated)
    assert [json.loads(item["SecretStringTemplate"]) for item in generated if item["GenerateStringKey"] == "k1"] == [
        {"current": "k1"}
    ]
    plain = sorted(item["SecretString"] for item in values.values() if isinstance(item.get("SecretString"), str))
    assert plain == ['{"api_key": ""}', '{"api_key": ""}', '{"secrets": []}', "{}"]


def test_prod_takes_no_secret_from_a_file() -> None:
    with pytest.raises(SettingsError, match="Secrets Manager"):
        stage_settings(Stage.PROD, Overrides(stripe_api_key="sk_test_x"))


def test_the_bucket_forgets_archives_as_plans_say() -> None:
    assert all_archived_days() == ARCHIVE_DAYS

"""Deployment refuses what CloudFormation would not notice."""

import boto3
import pytest
from botocore.stub import Stubber

from infra.config import SettingsError, Stage
from infra.deploy import deploy, foreign_rules, refuse_shared_account


def test_rules_of_another_stage_are_foreign() -> None:
    names = ["karma_dev_data", "karma_prod_data", "somebody_elses", "karma_prod_ready"]
    assert foreign_rules(names, stage=Stage.DEV) == ["karma_prod_data", "karma_prod_ready"]
    assert foreign_rules(names, stage=Stage.PROD) == ["karma_dev_data"]
    assert foreign_rules(["other"], stage=Stage.PROD) == []


def test_a_shared_account_is_refused_even_on_the_second_page() -> None:
    client = boto3.client("iot", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        stub.add_response("list_topic_rules", {"rules": [{"ruleName": "karma_dev_data"}], "nextToken": "t"})
        stub.add_response("list_topic_rules", {"rules": [{"ruleName": "karma_prod_data"}]})
        with pytest.raises(SettingsError, match="karma_prod_data"):
            refuse_shared_account(client, stage=Stage.DEV)


def test_the_local_stage_is_not_deployed_to_aws() -> None:
    with pytest.raises(SettingsError, match="make dev"):
        deploy(stage=Stage.LOCAL, overrides=None, arguments=[])

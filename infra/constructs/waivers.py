"""Waives a finding of cdk-nag on one named resource, with its reason; counted by tests/infra/test_nag.py."""

from aws_cdk import Acknowledgment, Validations
from constructs import IConstruct


def waive(construct: IConstruct, rule: str, reason: str) -> None:
    """Accept one finding (`Rule` or `Rule[finding]`) on one construct and its children."""
    Validations.of(construct).acknowledge(Acknowledgment(id=rule, reason=reason))

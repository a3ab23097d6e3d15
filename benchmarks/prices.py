"""Prices a thousand chat turns by what AWS charges for what one uses, without the model.

List prices of us-east-1 on demand, without free tiers and discounts, as AWS's pages had them in November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TURNS: Final = 1000
AS_OF: Final = "2026-11"
TARGET_USD: Final = 0.12


@dataclass(frozen=True)
class Price:
    """A price of AWS."""

    usd: float
    per: float
    """Number of units that cost this."""
    unit: str
    source: str


PRICES: Mapping[str, Price] = {
    "Lambda, arm64, time": Price(0.0000133334, 1, "GB-s", "aws.amazon.com/lambda/pricing"),
    "Lambda, requests": Price(0.20, 1e6, "requests", "aws.amazon.com/lambda/pricing"),
    "DynamoDB, writes": Price(0.625, 1e6, "WRU", "aws.amazon.com/dynamodb/pricing/on-demand"),
    "DynamoDB, reads": Price(0.125, 1e6, "RRU", "aws.amazon.com/dynamodb/pricing/on-demand"),
    "SQS, standard queues": Price(0.40, 1e6, "requests", "aws.amazon.com/sqs/pricing"),
    "CloudFront, HTTPS requests": Price(0.01, 1e4, "requests", "aws.amazon.com/cloudfront/pricing"),
    "CloudFront, sent to clients": Price(0.085, 1e9, "bytes", "aws.amazon.com/cloudfront/pricing"),
}
"""Prices by what is paid. The Function URL costs nothing beside Lambda, nor do the first 6 MB of a streamed answer."""


@dataclass(frozen=True)
class Paid:
    """Price of one thing for a thousand turns."""

    name: str
    at: str
    """Use of it by one turn, and its price."""
    usd: float


def paid(used: Mapping[str, float]) -> list[Paid]:
    """Return what TURNS turns cost of each thing that one of them uses, by the names of PRICES.

    Raises:
        KeyError: there is no price for something that is used.
    """
    found = []
    for name, amount in used.items():
        price = PRICES[name]
        per = "" if price.per == 1 else f"{price.per:,.0f} "
        at = f"{amount:,.5g} {price.unit} a turn, ${price.usd:g} for {per}{price.unit}"
        found.append(Paid(name, at, TURNS * amount * price.usd / price.per))
    return found

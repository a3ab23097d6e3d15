"""Verification of Stripe's webhook signature, without stripe, whose import costs .7 of a boto3 client's start.

`Stripe-Signature: t=<epoch seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">[,v1=...]`; several v1 while Stripe rotates.
tests/contract/billing compares it with `stripe.WebhookSignature.verify_header`; the one difference: Stripe accepts
timestamps of any future.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from karma.core.errors import InvalidRequest

TOLERANCE_S = 300


class SignatureInvalid(InvalidRequest):
    """The body was not signed by Stripe with a secret of ours, or not now."""

    code = "INVALID_SIGNATURE"


class SignatureMismatch(SignatureInvalid):
    """The header is readable, but no secret made any of its signatures: it is forged, or a secret was just replaced."""


def verify(body: bytes, header: str | None, secrets: Sequence[str], *, now_s: float) -> None:
    """Verify that one of the secrets signed a body within TOLERANCE_S before or after now.

    Raises:
        SignatureMismatch: none of the secrets made a signature of the header.
        SignatureInvalid: another part of the header is wrong; the message says which, never the right value.
    """
    if not header:
        raise SignatureInvalid("The Stripe-Signature header is missing")
    try:
        parts = [part.split("=", 2) for part in header.split(",")]
        timestamp = int(next(part[1] for part in parts if part[0] == "t"))
        given = [part[1].encode("utf-8", "surrogatepass") for part in parts if part[0] == "v1"]
        signed = b"%d.%b" % (timestamp, body)
    except (ValueError, IndexError, StopIteration):
        raise SignatureInvalid("The Stripe-Signature header is unreadable") from None
    if not given:
        raise SignatureInvalid("The Stripe-Signature header has no v1 signature")
    # Every pair is compared, so that the time tells nothing about which secret or signature was close.
    matches = 0
    for secret in secrets:
        expected = hmac.digest(secret.encode(), signed, "sha256").hex().encode()
        for signature in given:
            matches += hmac.compare_digest(expected, signature)
    if not matches:
        raise SignatureMismatch("The signature does not match the body")
    if not now_s - TOLERANCE_S <= timestamp <= now_s + TOLERANCE_S:
        raise SignatureInvalid(f"The signature's timestamp is more than {TOLERANCE_S} s from now")

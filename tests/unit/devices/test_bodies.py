"""Bodies of requests: one rule for the same thing, wherever it is said."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from karma.core.errors import ValidationFailed
from karma.devices.schemas import CreateProvisioningClaimBody, RotateCertificateBody
from karma.devices.serial_csv import read_serials

PEM = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----"
CLAIM: dict[str, Any] = {"name": "Batch", "model": "EOS-3A", "serial_numbers": ["EOS-1"]}


@pytest.mark.parametrize("given", [PEM, f"\ufeff{PEM}\n", f"Certificate Request:\n  Data\n{PEM}\nmade by a tool"])
def test_a_signing_request_is_taken_with_what_tools_write_around_it(given: str) -> None:
    assert RotateCertificateBody(csr=given).csr == PEM


def test_a_list_names_each_serial_number_once_however_it_is_given() -> None:
    with pytest.raises(ValidationError, match="EOS-1"):
        CreateProvisioningClaimBody(**{**CLAIM, "serial_numbers": ["EOS-1", "EOS-2", "EOS-1"]})
    with pytest.raises(ValidationFailed):
        read_serials("serial_number\nEOS-1\nEOS-2\nEOS-1\n")


@pytest.mark.parametrize("field", ["overlap_s", "max_devices"])
@pytest.mark.parametrize("value", [1000.0, 1000.5, "1000", True])
def test_a_whole_number_is_written_as_one(field: str, value: object) -> None:
    kind, given = (RotateCertificateBody, {}) if field == "overlap_s" else (CreateProvisioningClaimBody, CLAIM)
    with pytest.raises(ValidationError):
        kind.model_validate({**given, field: value})


def test_the_example_of_a_moment_is_one() -> None:
    with pytest.raises(ValidationError) as refused:
        CreateProvisioningClaimBody(**{**CLAIM, "expires_at": 1_795_262_400})
    [error] = refused.value.errors()
    example = str(error["msg"]).rpartition(" ")[2]
    assert CreateProvisioningClaimBody(**{**CLAIM, "expires_at": example}).expires_at is not None

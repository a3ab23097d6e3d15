"""A file on its way through the deployed backend, under the roles that its functions have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from karma.devices.service import Created
from local.api_client import ApiRefused

from .conftest import User

Eventually = Callable[..., Any]


@pytest.mark.req("R-K-01", "R-K-04")
def test_a_file_is_sent_verified_loaded_and_deleted(user: User, device: Created, eventually: Eventually) -> None:
    data = b"from a robot" * 1000
    files = f"/devices/{device.current.device.id}/files"
    body = {
        "name": "report.txt",
        "path": "/out",
        "category": "report",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }

    file_id = user.api.call("POST", files, body)["file_id"]
    [part] = user.api.call("POST", f"{files}/{file_id}/parts", {"part_numbers": [1]})["parts"]
    sent = httpx.put(part["url"], content=data, headers=part["headers"], trust_env=False)
    assert sent.status_code == 200, sent.text
    assert user.api.call("POST", f"{files}/{file_id}/complete", {})["file"]["status"] == "verifying"
    eventually(lambda: user.api.call("GET", files, category="report")["total"] == 1, "a listed file")

    link = user.api.call("GET", f"{files}/{file_id}/download")["url"]
    assert httpx.get(link, trust_env=False).content == data

    user.api.call("DELETE", f"{files}/{file_id}")
    with pytest.raises(ApiRefused):
        user.api.call("GET", f"{files}/{file_id}")
    assert httpx.get(link, trust_env=False).status_code == 404

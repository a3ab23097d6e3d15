"""Examples of the OpenAPI document for firmware: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RELEASE = "01994b9c-5a01-7c3d-8e4f-112233445566"
_EARLIER = "01994b9c-5a01-7c3d-8e4f-001122334455"
_ROLLOUT = "01994b9c-6b12-7d4e-9f50-223344556677"
_DEVICE = "01994b9c-6b12-7d4e-9f50-334455667788"
_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_KEY = "UoyTpKKKcKBCWuDPpl9vRbWM54FHLG8AoLm58HYaq6s="
_SIGNATURE = "R+d9I6bpFaaDxsE/F0y7O3bs4nZDmd5BYdHWBpPYIiSN2VAHF1eUv+2PXeApSPx4rfWGWlO6RgjOwSwd4eMCAA=="
_MANIFEST = (
    '{"format": 1, "models": ["EOS-3A"], "version": "2.1.0", "size": 123456, '
    f'"sha256": "{_SHA256}", "rollback_index": 0}}'
)

FIELDS: Mapping[str, Any] = {
    "release_id": _RELEASE,
    "rollout_id": _ROLLOUT,
    "ReleaseView.id": _RELEASE,
    "ReleaseView.state": "published",
    "ReleaseView.models": ["EOS-3A"],
    "ReleaseView.size": 123456,
    "ReleaseView.sha256": _SHA256,
    "ReleaseView.rollback_index": 0,
    "ReleaseView.key_id": "0f1e2d3c4b5a6978",
    "ReleaseView.published_at": "2026-11-27T08:05:00.000Z",
    **{f"{model}.manifest": _MANIFEST for model in ("ReleaseView", "CreateReleaseBody")},
    **{f"{model}.signature": _SIGNATURE for model in ("ReleaseView", "CreateReleaseBody")},
    **{f"{model}.public_key": _KEY for model in ("ReleaseView", "CreateReleaseBody")},
    **{f"{model}.firmware_version": "2.1.0" for model in ("ReleaseView", "RolloutView")},
    "SignedUploadView.method": "PUT",
    "SignedUploadView.url": "https://bucket.s3.us-east-1.amazonaws.com/firmware/…",
    "SignedUploadView.headers": {"x-amz-checksum-sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
    "RolloutView.id": _ROLLOUT,
    "RolloutView.rollback_of": None,
    "RolloutView.state": "running",
    "RolloutView.reason": None,
    "RolloutView.wave": 2,
    "RolloutView.devices": 50,
    "RolloutView.changed_at": "2026-11-27T08:06:00.000Z",
    "RolloutView.ends_at": "2026-12-27T08:06:00.000Z",
    "CreateRolloutBody.device_ids": None,
    "CreateRolloutBody.tag": "greenhouse",
    "CreateRolloutBody.all": False,
    **{f"{model}.waves": [5, 20, 50, 100] for model in ("RolloutView", "CreateRolloutBody")},
    **{f"{model}.wave_hours": 24 for model in ("RolloutView", "CreateRolloutBody")},
    **{f"{model}.abort_percent": 20 for model in ("RolloutView", "CreateRolloutBody")},
    **{f"{model}.abort_min_finished": 5 for model in ("RolloutView", "CreateRolloutBody")},
    **{f"{model}.timeout_minutes": 120 for model in ("RolloutView", "CreateRolloutBody")},
    "FirmwareRollbackBody.release_id": _EARLIER,
    "RetryRolloutBody.device_ids": [_DEVICE],
    "ProgressView.waiting": 40,
    "ProgressView.queued": 3,
    "ProgressView.in_progress": 2,
    "ProgressView.succeeded": 4,
    "ProgressView.failed": 1,
    "ProgressView.rejected": 0,
    "ProgressView.timed_out": 0,
    "ProgressView.removed": 0,
    "TargetView.device_id": _DEVICE,
    "TargetView.serial_number": "EOS-0001",
    "TargetView.wave": 1,
    "TargetView.state": "failed",
    "TargetView.from_version": "2.0.3",
    "TargetView.note": "HASH: the SHA-256 of the file is another one",
}

"""Signed firmware for tests."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from karma.firmware.service import SignedManifest

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FIRMWARE = b"firmware" * 100


def manifest_of(data: bytes = FIRMWARE, **changed: Any) -> str:
    said = {
        "format": 1,
        "models": ["EOS-3A"],
        "version": "2.0.0",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "rollback_index": 1,
    }
    return json.dumps({**said, **changed})


def signed(manifest: str, key: Ed25519PrivateKey = KEY) -> SignedManifest:
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    return SignedManifest(manifest, base64.b64encode(key.sign(manifest.encode())).decode(), public)

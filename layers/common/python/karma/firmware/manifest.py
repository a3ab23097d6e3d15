"""Manifests of firmware: what is signed about a release, and the check of the signature.

A manifest is a JSON object, signed as the very bytes that it was sent as (UTF-8), with Ed25519:

    {"format": 1, "models": ["EOS-3A"], "version": "2.1.0", "size": 123456, "sha256": "<digits>", "rollback_index": 0}

More members are kept and signed with the rest; a device may read them. No member stands twice.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import partial
from typing import Any, Final

from karma.core.errors import ValidationFailed
from karma.core.records import Record
from karma.devices.domain import DeviceModel
from karma.firmware.domain import MAX_BYTES, MAX_VERSION_CHARS

_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_INDEX: Final = 2**31 - 1
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64


class Manifest(Record, kw_only=True):
    """Members of a manifest that the service reads."""

    models: tuple[str, ...]
    version: str
    size: int
    sha256: str
    rollback_index: int


def read_manifest(text: str) -> Manifest:
    """Read a manifest.

    Raises:
        ValidationFailed: one entry for each member that is wrong, as `manifest.<member>`.
    """
    from karma.core import freeform  # local: only a new release needs it

    try:
        # Of a member that stands twice readers take one or the other, and what is signed must be one thing.
        given = freeform.loads(text, of_request=True)
    except freeform.NotJson:
        raise ValidationFailed.of("manifest", "must be JSON") from None
    except freeform.OutOfBounds as exc:
        raise ValidationFailed.of(f"manifest.{exc.member}" if exc.member else "manifest", exc.told) from None
    if not isinstance(given, dict):
        raise ValidationFailed.of("manifest", "must be a JSON object")
    wrong = _wrong(given)
    ValidationFailed.together(*(partial(_refuse, f"manifest.{name}", why) for name, why in wrong.items()))
    return Manifest(
        models=tuple(sorted(set(given["models"]))),
        version=given["version"],
        size=given["size"],
        sha256=given["sha256"],
        rollback_index=given["rollback_index"],
    )


def _wrong(given: dict[str, Any]) -> dict[str, str]:
    known = [each.value for each in DeviceModel]
    models, version, sha256 = given.get("models"), given.get("version"), given.get("sha256")
    wrong: dict[str, str] = {}
    if type(given.get("format")) is not int or given["format"] != 1:
        wrong["format"] = "must be 1"
    if not (isinstance(models, list) and models and all(each in known for each in models)):
        wrong["models"] = f"must be a list of one or more of {', '.join(known)}"
    if not (isinstance(version, str) and len(version) <= MAX_VERSION_CHARS and _VERSION.fullmatch(version)):
        wrong["version"] = f"must be 1 to {MAX_VERSION_CHARS} letters, digits and ._+- and begin with a letter or digit"
    if not _is_whole(given.get("size"), 1, MAX_BYTES):
        wrong["size"] = f"must be the number of bytes, 1 to {MAX_BYTES}"
    if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        wrong["sha256"] = "must be a SHA-256 in hexadecimal: 64 digits, in small letters"
    if not _is_whole(given.get("rollback_index"), 0, _MAX_INDEX):
        wrong["rollback_index"] = f"must be a whole number, 0 to {_MAX_INDEX}"
    return wrong


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _refuse(field: str, why: str) -> None:
    raise ValidationFailed.of(field, why)


def require_signed(manifest: str, *, signature: str, public_key: str) -> None:
    """Check that a key has signed a manifest. Nobody is trusted by this: devices know the keys that they trust.

    Raises:
        ValidationFailed: key or signature are not what they should be in base64, or the signature is another text's.
    """
    # Only a new release needs it.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = _decoded("public_key", public_key, _KEY_BYTES)
    signed = _decoded("signature", signature, _SIGNATURE_BYTES)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signed, manifest.encode())
    except (InvalidSignature, ValueError):
        raise ValidationFailed.of("signature", "must be the Ed25519 signature of manifest by public_key") from None


def _decoded(field: str, text: str, length: int) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != length:
        raise ValidationFailed.of(field, f"must be {length} bytes in base64")
    return data

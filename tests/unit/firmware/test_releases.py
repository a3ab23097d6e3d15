"""Releases: manifests, signatures, and the comparison of bytes at publication."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from karma.core.errors import InvalidTransition, ValidationFailed
from karma.firmware.domain import (
    FirmwareMismatch,
    FirmwareNotUploaded,
)
from karma.firmware.manifest import read_manifest, require_signed
from tests.support.firmware import FIRMWARE, manifest_of, signed
from tests.support.firmware_world import USER, World


@pytest.fixture
def world() -> World:
    return World()


def test_publishing_compares_the_bytes_with_the_manifest(world: World) -> None:
    draft = world.releases.create(USER, signed(manifest_of()))
    with pytest.raises(FirmwareNotUploaded):
        world.releases.publish(USER, draft.id)
    for wrong, field_ in ((FIRMWARE + b"x", "size"), (FIRMWARE[:-1], "size"), (FIRMWARE[:-1] + b"x", "sha256")):
        world.bytes.objects[draft.id] = wrong
        with pytest.raises(FirmwareMismatch) as refused:
            world.releases.publish(USER, draft.id)
        assert isinstance(refused.value.details, dict)
        assert refused.value.details["field"] == field_
    world.bytes.objects[draft.id] = FIRMWARE
    published = world.releases.publish(USER, draft.id)
    assert world.releases.publish(USER, draft.id) == published, "a repeat changes nothing"
    with pytest.raises(InvalidTransition):
        world.releases.upload(USER, draft.id)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"format": 2}, "manifest.format"),
    ({"format": True}, "manifest.format"),
    ({"models": []}, "manifest.models"),
    ({"models": ["EOS-9"]}, "manifest.models"),
    ({"models": [["EOS-3A"]]}, "manifest.models"),
    ({"version": "a b"}, "manifest.version"),
    ({"version": "1" * 51}, "manifest.version"),
    ({"size": 0}, "manifest.size"),
    ({"size": 2**40}, "manifest.size"),
    ({"size": 1.5}, "manifest.size"),
    ({"sha256": "A" * 64}, "manifest.sha256"),
    ({"rollback_index": -1}, "manifest.rollback_index"),
]


@pytest.mark.parametrize(("changed", "field_"), WRONG)
def test_a_wrong_member_of_a_manifest_is_named(changed: dict[str, Any], field_: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        read_manifest(manifest_of(**changed))
    assert [each["field"] for each in refused.value.details or ()] == [field_]  # type: ignore[index]


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a":' * 2000])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed):
        read_manifest(text)


@pytest.mark.fault("F-49h")
@pytest.mark.parametrize("twice", ['"size": 1', '"models": ["EOS-3A"]', '"notes": {"a": 1, "a": 2}', '"\\u0073ize": 1'])
def test_a_member_that_stands_twice_is_refused(twice: str) -> None:
    text = f"{{{twice}, {manifest_of()[1:]}"
    with pytest.raises(ValidationFailed) as refused:
        read_manifest(text)
    [detail] = refused.value.details or ()
    assert "twice" in detail["message"]  # type: ignore[index]


def test_a_signature_is_of_the_very_text_and_key() -> None:
    text = manifest_of()
    good = signed(text)
    require_signed(text, signature=good.signature, public_key=good.public_key)
    other = signed(text, Ed25519PrivateKey.generate())
    for changed in (
        {"signature": other.signature},
        {"public_key": other.public_key},
        {"signature": "x"},
        {"public_key": "é"},
        {"signature": base64.b64encode(bytes(64)).decode()},
    ):
        with pytest.raises(ValidationFailed):
            require_signed(text, **{"signature": good.signature, "public_key": good.public_key, **changed})
    with pytest.raises(ValidationFailed):
        require_signed(text + " ", signature=good.signature, public_key=good.public_key)

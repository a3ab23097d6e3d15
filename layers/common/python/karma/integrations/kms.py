"""AWS KMS: encrypts small secrets under one key, each bound to a context."""

from __future__ import annotations

from collections.abc import Mapping

from karma.core import aws
from karma.core.errors import Upstream
from karma.core.faults import AWS_FAULTS, code_of, upstream_of


class SealUnavailable(Upstream):
    """KMS did not answer; what is encrypted cannot be used until it does."""

    status = 503
    code = "KEYS_UNAVAILABLE"
    retry_after_s = 1


class SealBroken(Upstream):
    """The key is lost, or the ciphertext belongs to another context: the secret has to be given anew."""

    status = 503
    code = "SECRET_LOST"


class KmsSeal:
    """One key of KMS."""

    def __init__(self, key_arn: str) -> None:
        """`key_arn` may also be the key's alias."""
        self._key = key_arn

    def seal(self, plain: bytes, *, context: Mapping[str, str]) -> bytes:
        """Encrypt at most 4,096 bytes for a context, which stands in clear in CloudTrail: ids, no names.

        Raises:
            SealUnavailable: KMS did not answer.
        """
        try:
            answer = aws.client("kms").encrypt(KeyId=self._key, Plaintext=plain, EncryptionContext=dict(context))
        except AWS_FAULTS as exc:
            raise _public(exc) from exc
        return bytes(answer["CiphertextBlob"])

    def unseal(self, sealed: bytes, *, context: Mapping[str, str]) -> bytes:
        """Decrypt what was sealed for a context.

        Raises:
            SealUnavailable: KMS did not answer.
            SealBroken: KMS has no such key, or the ciphertext is not of this context.
        """
        try:
            answer = aws.client("kms").decrypt(KeyId=self._key, CiphertextBlob=sealed, EncryptionContext=dict(context))
        except AWS_FAULTS as exc:
            if code_of(exc) in {"InvalidCiphertextException", "IncorrectKeyException", "NotFoundException"}:
                raise SealBroken("A stored secret cannot be read any more; give it anew") from exc
            raise _public(exc) from exc
        return bytes(answer["Plaintext"])


def _public(exc: Exception) -> Upstream:
    found = upstream_of(exc, system="The store of keys", busy=SealUnavailable, unavailable=SealUnavailable)
    return found or SealUnavailable("The store of keys refuses the call")

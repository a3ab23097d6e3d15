# ruff: noqa: D102 - a kit for tests
"""An authority that signs what devices ask for."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Authority:
    """Signs requests, as AWS IoT does."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def sign(self, csr: str) -> str:
        request = x509.load_pem_x509_csr(csr.encode())
        built = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(request.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2049, 12, 31, tzinfo=UTC))
        )
        return built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

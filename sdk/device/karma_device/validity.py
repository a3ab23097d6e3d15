"""Validity of a certificate: Python's own library tells that of certificates of authorities alone."""

import base64
import binascii
from datetime import UTC, datetime

_SEQUENCE, _VERSION = 0x30, 0xA0
_FORMS = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""Forms of UTCTime and GeneralizedTime in certificates (RFC 5280)."""


def validity(pem: str) -> tuple[float, float]:
    """Return begin and end of a certificate in PEM, the first one of several, as Unix times.

    Raises:
        ValueError: It is none.
    """
    body = pem.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END CERTIFICATE-----")[0]
    try:
        der = base64.b64decode("".join(body.split()), validate=True)
        _, signed, _ = _read(der)
        _, content, _ = _read(signed)
        tag, _, after = _read(content)
        if tag == _VERSION:
            _, _, after = _read(after)
        for _part in ("algorithm", "issuer"):
            _, _, after = _read(after)
        tag, times, _ = _read(after)
        if tag != _SEQUENCE:
            raise ValueError("it has no validity where a certificate has one")
        begin_tag, begin, rest = _read(times)
        end_tag, end, _ = _read(rest)
        return _time(begin_tag, begin), _time(end_tag, end)
    except (IndexError, KeyError, binascii.Error) as exc:
        raise ValueError("it is no certificate") from exc


def _read(der: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element, and what follows it."""
    tag, size, at = der[0], der[1], 2
    if size & 0x80:
        count = size & 0x7F
        size, at = int.from_bytes(der[2 : 2 + count], "big"), 2 + count
    if len(der) < at + size:
        raise ValueError("it is cut off")
    return tag, der[at : at + size], der[at + size :]


def _time(tag: int, content: bytes) -> float:
    return datetime.strptime(content.decode("ascii"), _FORMS[tag]).replace(tzinfo=UTC).timestamp()

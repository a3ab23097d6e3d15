"""Normalised e-mail addresses: each has one spelling."""

from __future__ import annotations

import hashlib

from karma.core.errors import ValidationFailed

MAX_CHARS = 255
EXAMPLE = "name@example.com"


def normalise(email: str) -> str:
    """Return the one spelling under which an address is stored: Unicode NFC, lower case, without spaces around.

    Raises:
        ValidationFailed: the text is no address, or is longer than 255 characters.
    """
    from email_validator import EmailNotValidError, validate_email  # local: only logins need it

    try:
        read = validate_email(email.strip(), check_deliverability=False)
    except EmailNotValidError:
        raise ValidationFailed.of("email", f"must be an e-mail address such as {EXAMPLE}") from None
    # The domain comes as IDNA maps it, which is in lower case but for scripts whose small letters it maps to capitals.
    domain = read.domain.lower() if read.domain.isascii() else read.domain
    found = f"{read.local_part.lower()}@{domain}"
    if len(found) > MAX_CHARS:
        raise ValidationFailed.of("email", f"has more than {MAX_CHARS} characters")
    return found


def require_mailable(email: str) -> None:
    """Check that our mail provider can send to a normalised address.

    Raises:
        ValidationFailed: the part before the @ is not ASCII.
    """
    if not email.rpartition("@")[0].isascii():
        raise ValidationFailed.of("email", "has letters before the @ to which mail cannot be sent")


def mailable(email: str) -> str:
    """Return the one spelling of an address that mail is sent to.

    Raises:
        ValidationFailed: the text is no address, is longer than 255 characters, or is not ASCII before the @.
    """
    found = normalise(email)
    require_mailable(found)
    return found


def digest(email: str) -> str:
    """Return the SHA-256 of a normalised address, as used in keys and in requests of people who have proven nothing."""
    return hashlib.sha256(email.encode()).hexdigest()

"""Amazon SES, API version 2: one letter a call, to one address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karma.core import aws
from karma.core.faults import AWS_FAULTS, code_of, upstream_of
from karma.mail.addresses import AddressUnmailable, mailable
from karma.mail.domain import Letter
from karma.mail.ports import MailRefused, MailUnavailable

if TYPE_CHECKING:
    from mypy_boto3_sesv2.type_defs import MessageTypeDef

_UTF8 = "UTF-8"


class SesSender:
    """Sends mails from one verified address."""

    def __init__(self, *, sender: str, configuration_set: str) -> None:
        """Make a sender; `sender` is the From header, e.g. `Karma <no-reply@example.com>`."""
        self._sender = sender
        self._configuration_set = configuration_set

    def send(self, letter: Letter, *, to: str) -> None:
        """Send a letter by SES, which makes the MIME message; the only header with a user's text is To.

        Raises:
            MailUnavailable: SES did not accept the letter, or did not answer; it may be sent again.
            MailRefused: SES never accepts mail for this address.
        """
        try:
            recipient = mailable(to)
        except AddressUnmailable as exc:
            raise MailRefused from exc
        content: MessageTypeDef = {
            "Subject": {"Data": letter.subject, "Charset": _UTF8},
            "Body": {
                "Text": {"Data": letter.text, "Charset": _UTF8},
                "Html": {"Data": letter.html, "Charset": _UTF8},
            },
        }
        try:
            aws.client("sesv2").send_email(
                FromEmailAddress=self._sender,
                Destination={"ToAddresses": [recipient]},
                Content={"Simple": content},
                ConfigurationSetName=self._configuration_set,
            )
        except AWS_FAULTS as exc:
            if code_of(exc) == "BadRequestException":
                raise MailRefused from exc
            public = upstream_of(exc, system="The mail provider", busy=MailUnavailable, unavailable=MailUnavailable)
            raise public or MailUnavailable("The mail provider did not take a mail; try again") from exc

"""Mail goes to the domain that is stored, whatever letters it is written in."""

from __future__ import annotations

import contextlib

import idna
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from karma.core.errors import ValidationFailed
from karma.identity.accounts import emails
from karma.mail.addresses import AddressUnmailable, mailable

LETTERS = st.one_of(
    st.sampled_from("abzßẞςσΣάöÖéłđıİĸøþ中例ไทयم한.-0ー・’ǆﬁ\u0307\u0308\u200c\u200d\u00ad"),  # noqa: RUF001
    st.characters(categories=["L", "M", "N"]),
)
DOMAINS = st.text(LETTERS, min_size=1, max_size=24).map(lambda label: f"{label}.example")


def stored(domain: str) -> str:
    try:
        return emails.normalise(f"ada@{domain}")
    except ValidationFailed:
        return ""


def mailed_domain(address: str) -> str:
    return mailable(address).rpartition("@")[2]


@pytest.mark.fault("F-20a")
@given(domain=DOMAINS)
@example("straße.example")
@example("xn--strae-oqa.example")
@example("ΒΌΛΟΣ.example")
@example("βόλος.example")
@example("FAẞ.example")
@example("\u13a0.example")
@example("EXAMPLE")
def test_the_domain_mailed_is_the_a_label_of_the_domain_stored(domain: str) -> None:
    """Read back, what is mailed is what is stored: so two domains that are stored never share a mailbox."""
    address = stored(domain)
    assume(address)
    mailed = mailed_domain(address)
    assert mailed.isascii()
    assert idna.decode(mailed) == address.rpartition("@")[2]


@pytest.mark.fault("F-20a")
@given(domain=DOMAINS)
@example("straße.example")
@example("STRASSE.example")
@example("\uab70.example")
def test_an_address_has_one_spelling_and_its_a_label_is_the_same_address(domain: str) -> None:
    address = stored(domain)
    assume(address)
    assert emails.normalise(address) == address
    assert emails.normalise(mailable(address)) == address


@pytest.mark.fault("F-20a")
@given(first=DOMAINS, second=DOMAINS)
@example("straße.example", "strasse.example")
@example("βόλος.example", "βόλοσ.example")
def test_two_accounts_never_share_a_mailbox(first: str, second: str) -> None:
    one, other = stored(first), stored(second)
    assume(one and other and one != other)
    assert mailable(one) != mailable(other)


@pytest.mark.fault("F-20a")
@given(text=st.text(max_size=300))
@example("a@" + "ä" * 70 + ".example")
@example("ä@example.com")
@example("a@")
@example("a@☃.example")
@example("a@a..b")
def test_an_address_that_was_stored_by_other_rules_is_refused_or_spelled_in_ascii(text: str) -> None:
    with contextlib.suppress(AddressUnmailable):
        assert mailable(text).isascii()

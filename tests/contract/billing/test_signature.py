"""Our check of Stripe's signature and the library's agree on everything but the future."""

import time

import pytest
import stripe
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from karma.billing.signature import TOLERANCE_S, SignatureInvalid, verify
from karma.integrations.stripe import API_VERSION

SECRET = "whsec_contract"


def ours(body: str, header: str | None, secret: str) -> bool:
    try:
        verify(body.encode(), header, [secret] if secret.strip(" \t\r\n\f\v") else [], now_s=time.time())
    except SignatureInvalid:
        return False
    return True


def theirs(body: str, header: str | None, secret: str) -> bool:
    try:
        stripe.WebhookSignature.verify_header(body, header, secret, tolerance=TOLERANCE_S)
    except stripe.SignatureVerificationError:
        return False
    except TypeError:  # the library compares text, which fails for signatures beyond ASCII: it has no answer
        reject()
    return True


_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
_AGE = st.integers(-10_000, TOLERANCE_S - 30).filter(lambda age: abs(age + TOLERANCE_S) > 30)
_NOISE = st.lists(
    st.one_of(
        _TEXT.filter(lambda text: "," not in text),
        st.builds("v1={}".format, st.text("0123456789abcdef", max_size=64)),
        st.builds("{}={}".format, st.sampled_from(["t", "v0", "v1", "v2", " v1", "T"]), _TEXT),
    ),
    max_size=3,
)


@pytest.mark.req("R-C-29")
@settings(max_examples=400)
@given(body=_TEXT, secret=_TEXT, age=_AGE, before=_NOISE, after=_NOISE, tamper=st.booleans())
@example(body="{}", secret="whsec_é", age=0, before=["t=٣"], after=[], tamper=False)
@example(body="{}", secret=" ", age=0, before=[], after=[], tamper=False)
@example(body="☃", secret="s", age=-100, before=["t"], after=["v1"], tamper=False)
def test_agrees_with_the_library_on_signed_headers(
    body: str, secret: str, age: int, before: list[str], after: list[str], tamper: bool
) -> None:
    signed = stripe.WebhookSignature.generate_signature_header(body, secret, timestamp=int(time.time()) + age)
    header = ",".join([*before, signed, *after])
    shown = body + "x" if tamper else body
    assert ours(shown, header, secret) == theirs(shown, header, secret)


@settings(max_examples=300)
@given(body=_TEXT, header=st.none() | _TEXT | _NOISE.map(",".join))
def test_agrees_with_the_library_on_any_header(body: str, header: str | None) -> None:
    assert ours(body, header, SECRET) == theirs(body, header, SECRET)


def test_the_future_is_where_we_differ() -> None:
    header = stripe.WebhookSignature.generate_signature_header("{}", SECRET, timestamp=int(time.time()) + 3600)
    assert theirs("{}", header, SECRET)
    assert not ours("{}", header, SECRET)


def test_a_signature_beyond_ascii_is_refused() -> None:
    now = int(time.time())
    assert not ours("{}", f"t={now},v1=☃", SECRET)


def test_our_pinned_version_is_the_one_that_the_library_was_made_for() -> None:
    assert stripe.api_version == API_VERSION

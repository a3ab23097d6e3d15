"""Requests that the listeners of the local environment accept, by what a request says of its sender."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.cross_origin import CONTROL_HEADER, Kind, is_loopback_host, is_page_of_this_machine, refusal

pytestmark = pytest.mark.fault("F-26b", "F-26c")
OWN = ["localhost", "LOCALHOST", "localhost.", "a.b.localhost", "127.0.0.1", "127.8.0.1", "[::1]"]
LOOKALIKES = [
    *("localhost.example", "127.0.0.1.example", "xlocalhost", "localhost@evil.example", "localhost,evil.example"),
    *(
        "0.0.0.0",
        "[::]",
        "10.0.0.1",
        "2130706433",
        "0x7f.1",
        "localhost.localstack.cloud",
        "lvh.me",
        "",
        "[localhost]x",
    ),
    *("localhost evil", "localhost/evil", "localhost:80:80", "localhost:", "::1", "evil\\localhost"),
]
LABELS = st.text(string.ascii_lowercase + string.digits + "-_", min_size=1, max_size=12)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
SITES = st.sampled_from(["none", "same-origin", "same-site", "cross-site", "", "other"])


@pytest.mark.parametrize("port", ["", ":1", ":65535"])
@pytest.mark.parametrize("host", OWN)
def test_every_name_of_this_machine_is_accepted(host: str, port: str) -> None:
    assert is_loopback_host(host + port)
    assert is_page_of_this_machine(f"http://{host}{port}")
    assert not is_page_of_this_machine(f"ftp://{host}{port}")


@pytest.mark.parametrize("host", LOOKALIKES)
def test_a_name_that_only_looks_like_one_of_this_machine_is_refused(host: str) -> None:
    assert not is_loopback_host(host)
    assert not is_page_of_this_machine(f"http://{host}")


@given(
    name=NAMES,
    site=SITES | st.none(),
    page=st.sampled_from(["http://localhost", None]),
    kind=st.sampled_from(Kind),
    method=st.sampled_from(["GET", "POST"]),
)
def test_a_name_that_may_be_rebound_is_refused_whatever_else_is_said(
    name: str, site: str | None, page: str | None, kind: Kind, method: str
) -> None:
    host = f"{name}.example"
    headers = [("Host", host), (CONTROL_HEADER, "1")]
    headers += [] if page is None else [("Origin", page)]
    headers += [] if site is None else [("Sec-Fetch-Site", site)]
    assert host in refusal(headers, method=method, kind=kind)
    # Nor does a second header make up for it.
    assert refusal([("host", "localhost"), *headers], method=method, kind=kind)


@given(name=NAMES, site=SITES | st.none(), kind=st.sampled_from(Kind), method=st.sampled_from(["GET", "POST"]))
def test_a_page_of_elsewhere_is_refused_unless_it_is_allowed_by_name(
    name: str, site: str | None, kind: Kind, method: str
) -> None:
    origin = f"https://{name}.example"
    headers = [("host", "localhost:1"), ("origin", origin), (CONTROL_HEADER, "1")]
    headers += [] if site is None else [("sec-fetch-site", site)]
    assert refusal(headers, method=method, kind=kind)
    assert bool(refusal(headers, method=method, kind=kind, origins=[origin])) == (kind is Kind.CONTROL)


@given(
    site=SITES,
    mode=st.sampled_from(["navigate", "no-cors", "cors", ""]),
    dest=st.sampled_from(["document", "iframe", "image"]),
)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_a_request_that_names_no_page_is_heard_for_what_a_visit_may_do(
    site: str, mode: str, dest: str, kind: Kind, method: str
) -> None:
    headers = [("host", "127.0.0.1"), ("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]
    visit = kind is Kind.VISIT and method in ("GET", "HEAD") and (mode, dest) == ("navigate", "document")
    own = site in ("none", "same-origin", "same-site") and kind is not Kind.CONTROL
    assert bool(refusal(headers, method=method, kind=kind)) != (own or visit)


def test_programs_are_heard_and_steer_only_if_they_say_so() -> None:
    host = ("host", "localhost:1")
    assert [refusal([host], kind=kind) for kind in (Kind.CALL, Kind.VISIT)] == ["", ""]
    assert CONTROL_HEADER in refusal([host], kind=Kind.CONTROL)
    assert refusal([host, (CONTROL_HEADER, "1")], kind=Kind.CONTROL) == ""
    assert refusal([host, (CONTROL_HEADER, "1"), ("sec-fetch-site", "none")], kind=Kind.CONTROL)

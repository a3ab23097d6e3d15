"""Bodies in another encoding than UTF-8 are refused, also when API Gateway has put U+FFFD in them before."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping, MutableMapping
from typing import Any

import pytest
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import MAX_FOUND, MAX_TOLD, InvalidRequest, UnsupportedMediaType
from karma.core.schemas import Body
from karma.http import errors
from karma.http.bodies import JsonBody


class Titled(Body):
    title: str


def read(
    sent: bytes,
    *,
    content_type: str = "application/json",
    encoding: str = "",
    as_gateway: bool = True,
    length: str = "",
) -> str:
    """Read a body as the function gets it: API Gateway hands JSON on as text, a function URL as bytes."""
    got = sent.decode(errors="replace").encode() if as_gateway else sent
    headers = {"content-type": content_type, "content-length": length or str(len(sent))}
    headers |= {"content-encoding": encoding} if encoding else {}
    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": got}

    found = asyncio.run(JsonBody(Titled, optional=False)(Request(scope, receive)))
    assert isinstance(found, Titled)
    return found.title


@pytest.mark.fault("F-25k")
@pytest.mark.parametrize("members", [3, 99, 100, 350, 450, 20_000])
def test_of_many_wrong_members_few_are_put_into_words_and_all_are_counted(
    members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    worded: list[str] = []

    def word(error: Mapping[str, Any]) -> str:
        worded.append(str(error["type"]))
        return "is wrong"

    monkeypatch.setattr(errors, "worded", word)
    with pytest.raises(RequestValidationError) as refusal:
        read(json.dumps({f"m{n}": n for n in range(members)}).encode())
    told: Any = errors.as_app_error(refusal.value).details
    assert len(worded) <= 4 * MAX_TOLD + 1
    assert told[0]["field"] == "title"
    assert len(told) == min(members + 1, MAX_TOLD + 1)
    if members > MAX_TOLD:
        more = members + 1 - MAX_TOLD
        assert told[-1]["message"] == f"and {'at least ' if members >= MAX_FOUND else ''}{more} more"


@pytest.mark.fault("F-24d")
@given(st.text(min_size=1, max_size=20), st.sampled_from(["utf-8", "latin-1", "cp1252", "utf-16", "shift_jis"]))
def test_a_text_is_read_as_it_was_sent_or_refused(title: str, encoding: str) -> None:
    try:
        sent = json.dumps({"title": title}, ensure_ascii=False).encode(encoding)
    except UnicodeEncodeError:
        return
    for as_gateway in (True, False):
        try:
            sent.decode()
        except UnicodeDecodeError:
            with pytest.raises(InvalidRequest) as refusal:
                read(sent, as_gateway=as_gateway)
            assert refusal.value.code == "INVALID_JSON"
            continue
        try:
            wanted = json.loads(sent)["title"]
        except ValueError:  # as the yen sign of Shift JIS, which is the backslash of others
            with pytest.raises(InvalidRequest):
                read(sent, as_gateway=as_gateway)
            continue
        if b"\0" not in sent:
            assert wanted == read(sent, as_gateway=as_gateway)


@pytest.mark.fault("F-24d")
@pytest.mark.parametrize("charset", ["latin-1", "ISO-8859-1", '"windows-1252"', "utf-16", "x" * 5_000])
def test_another_charset_is_named(charset: str) -> None:
    """Also where its bytes happen to be UTF-8: they would be read as another text."""
    with pytest.raises(UnsupportedMediaType) as refusal:
        read(b'{"title": "a"}', content_type=f"application/json; charset={charset}")
    assert charset.strip('"')[:40] in str(refusal.value)
    assert len(str(refusal.value)) < 120


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", '"utf-8"', "us-ascii"])
def test_utf_8_may_be_declared(charset: str) -> None:
    assert read(b'{"title": "a"}', content_type=f"application/json;charset={charset}") == "a"


@pytest.mark.fault("F-24g")
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "zstd", "identity, gzip", "x" * 5_000])
@pytest.mark.parametrize(
    "sent", [b'{"title": "a"}', gzip.compress(b'{"title": "a"}', mtime=0)], ids=["as it is", "compressed"]
)
def test_an_encoding_is_named(encoding: str, sent: bytes) -> None:
    with pytest.raises(UnsupportedMediaType) as refusal:
        read(sent, encoding=encoding, as_gateway=False)
    assert f"Content-Encoding is {encoding[:40]}" in str(refusal.value)
    assert len(str(refusal.value)) < 120
    assert refusal.value.headers == {"Accept-Encoding": "identity"}


@pytest.mark.fault("F-24g")
@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
@pytest.mark.parametrize("as_gateway", [True, False])
def test_a_body_as_it_is_may_say_so_and_may_begin_with_a_byte_order_mark(encoding: str, as_gateway: bool) -> None:
    assert read('\ufeff{"title": "a"}'.encode(), encoding=encoding, as_gateway=as_gateway) == "a"


@pytest.mark.parametrize("length", ["", "x", "9" * 30, "\u00b2"])
def test_a_replacement_character_of_the_senders_own_is_taken(length: str) -> None:
    """Also where no length was announced that could be compared."""
    assert read('{"title": "\ufffd"}'.encode(), length=length) == "\ufffd"

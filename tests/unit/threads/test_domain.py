"""Names of threads in URLs, titles that are made of first words, and their comparison."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.domain import MAX_TITLE_CHARS, Message, beginning, first_words, is_in_urls, one_line
from karma.core.ids import ThreadId
from karma.core.lines import is_line
from karma.threads.domain import folded, id_in_urls, name_in_urls

_IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), min_size=1, max_size=128)


@given(_IDS)
def test_a_name_in_urls_is_one_segment_of_a_path_and_leads_back_to_its_thread(thread_id: str) -> None:
    name = name_in_urls(ThreadId(thread_id))
    assert is_in_urls(name) or len(name) > 128
    assert "/" not in name
    assert id_in_urls(name) == thread_id
    assert name == thread_id or quote(name, safe="~") == name


@given(st.text(max_size=40))
def test_a_name_leads_to_an_id_that_a_thread_may_have_or_to_none(name: str) -> None:
    for each in (name, f"~{name}"):
        found = id_in_urls(each)
        assert found is None or (0 < len(found) <= 128 and found.isascii() and "#" not in found)


@pytest.mark.parametrize("name", ["", "~", "a b", "a#b", "~YSNi", "~w6k", "~!", "x" * 129])
def test_what_no_thread_can_be_called_is_none(name: str) -> None:
    assert id_in_urls(name) is None


def of(text: str) -> Message:
    return Message(id="m", role="user", content=text)


@given(st.text(max_size=300))
def test_first_words_are_one_line_of_the_beginning(text: str) -> None:
    title = first_words([Message(id="a", role="assistant", content="not I"), of(text)])
    assert len(title) <= MAX_TITLE_CHARS
    assert title == one_line(title)
    assert one_line(text).startswith(title.removesuffix("…"))
    assert bool(title) == bool(one_line(text))
    assert not title or is_line(title)


def test_first_words_pass_over_what_is_no_text() -> None:
    image = Message(id="m", role="user", content=({"type": "image", "source": {}},))
    both = Message(id="n", role="user", content=({"type": "image"}, {"type": "text", "text": "Who\tis this?"}))
    assert first_words([]) == first_words([image]) == ""
    assert first_words([image, of(" \n"), both, of("later")]) == "Who is this?"
    assert first_words([of("x" * 70)]) == "x" * 60 + "…"


FAMILY, WAVE, FLAG = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44b\U0001f3fd", "\U0001f1e9\U0001f1ea"


@pytest.mark.parametrize("sign", [FAMILY, WAVE, FLAG, "e\u0301", "\u2764\ufe0f"])
@pytest.mark.parametrize("before", range(55, 61))
def test_a_title_ends_with_a_whole_sign(sign: str, before: int) -> None:
    text = "x" * before + sign * 3
    for most in range(58, 62):
        title = beginning(text, most)
        assert len(title) <= most
        rest = title[before:]
        assert rest == sign * (len(rest) // len(sign))
    assert first_words([of(text)]).removesuffix("…") == beginning(text, 60)


def test_a_title_ends_with_a_whole_word() -> None:
    assert beginning("four words fit in", 16) == "four words fit"
    assert beginning("four words", 10) == "four words"


@given(st.text(max_size=30))
def test_folding_forgets_case_and_how_accents_are_composed(text: str) -> None:
    assert folded(unicodedata.normalize("NFD", text)) == folded(unicodedata.normalize("NFC", text))
    assert folded(folded(text)) == folded(text)

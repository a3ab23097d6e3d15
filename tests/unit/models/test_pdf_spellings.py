"""However a PDF is spelled, its bound is not below what PDFium finds in it."""

from __future__ import annotations

import base64

import pypdfium2
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.models.pdf_tokens import PAGE_TOKENS, most_tokens
from tests.support.pdfs import written_pdf


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_a_bound_is_not_below_what_pdfium_finds(seed: int) -> None:
    raw = written_pdf(seed)
    found = pypdfium2.PdfDocument(raw)
    pages, shown = len(found), 0
    for at in range(pages):
        try:
            shown += found[at].get_textpage().count_chars()
        except pypdfium2.PdfiumError:  # a page that is counted and not there
            continue
    most = most_tokens(base64.b64encode(raw).decode())
    assert most is None or most >= pages * PAGE_TOKENS + shown


def test_these_files_are_read() -> None:
    told = [most_tokens(base64.b64encode(written_pdf(seed)).decode()) for seed in range(40)]
    assert sum(each is not None for each in told) > 30
    assert (
        sum(len(pypdfium2.PdfDocument(written_pdf(seed))[0].get_textpage().get_text_bounded()) for seed in range(9))
        > 500
    )

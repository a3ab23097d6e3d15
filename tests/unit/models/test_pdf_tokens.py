"""A PDF's bound is never below what a model reads of it, where its pages and texts can be found; else it has none."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Sequence

import pytest

from karma.core.clock import monotonic
from karma.models.pdf_tokens import PAGE_TOKENS, most_tokens

PAGES = 12


def stream(data: bytes, head: bytes = b"") -> bytes:
    return b"<<%s/Length %d>>\nstream\n%s\nendstream" % (head, len(data), data)


def deflated(data: bytes, head: bytes = b"") -> bytes:
    return stream(zlib.compress(data), b"/Filter/FlateDecode" + head)


def packed(objects: Sequence[bytes]) -> bytes:
    index, body = b"", b""
    for number, each in enumerate(objects, 1):
        index += b"%d %d " % (number, len(body))
        body += each + b"\n"
    return deflated(index + body, b"/Type/ObjStm/N %d/First %d" % (len(objects), len(index)))


def written(objects: Sequence[bytes], first: int = 1) -> str:
    body = b"\n".join(b"%d 0 obj\n%s\nendobj" % (n, each) for n, each in enumerate(objects, first))
    return base64.b64encode(b"%PDF-1.7\n" + body + b"\nstartxref\n0\n%%EOF\n").decode()


def tree(pages: int, page: bytes = b"", node: bytes = b"") -> list[bytes]:
    refs = b" ".join(b"%d 0 R" % (n + 3) for n in range(pages))
    root = b"<</Type/Pages/Count %d/Kids[%s]%s>>" % (pages, refs, node)
    return [b"<</Type/Catalog/Pages 2 0 R>>", root, *[b"<</Type/Page/Parent 2 0 R%s>>" % page] * pages]


def in_the_open() -> list[bytes]:
    return tree(PAGES)


def with_its_tree_deflated() -> list[bytes]:
    return [packed(tree(PAGES))]


def with_names_escaped() -> list[bytes]:
    return [each.replace(b"/Page", b"/P#61ge").replace(b"/Count", b"/Co#75nt") for each in tree(PAGES)]


def with_comments() -> list[bytes]:
    return [each.replace(b"/", b"%/x(<<\n/").replace(b" ", b"%x\r\n") for each in tree(PAGES)]


def without_types() -> list[bytes]:
    return [each.replace(b"/Type/Pages", b"").replace(b"/Type/Page", b"") for each in tree(PAGES)]


def with_indirect_parts() -> list[bytes]:
    catalog, root, *pages = tree(PAGES)
    kids = root[root.index(b"[") : root.index(b"]") + 1]
    return [catalog, b"<</Kids 90 0 R/Count 91 0 R>>", *pages, b"0\nendobj\n90 0 obj %s" % kids]


def by_its_count_alone() -> list[bytes]:
    return [b"<</Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 4 0 R>>", b"<<>>", b"%d" % PAGES]


def with_one_page_often() -> list[bytes]:
    return [b"<</Pages 2 0 R>>", b"<</Kids[%s]>>" % (b"3 0 R " * PAGES), b"<</Type/Page>>"]


def with_another_tree_within_a_string() -> list[bytes]:
    return [b"<</Pages 90 0 R>>", b"(x\nendobj\n90 0 obj%s )" % tree(PAGES)[1], *tree(PAGES)[2:]]


def updated() -> list[bytes]:
    return [*tree(PAGES), b"0\nendobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>"]


def behind_the_data_of_a_picture() -> list[bytes]:
    hidden = b"\xff\nendobj\n2 0 obj\n%s\nendobj" % tree(PAGES)[1]
    return [b"<</Pages 2 0 R>>", stream(hidden, b"/Filter/DCTDecode"), *tree(PAGES)[2:]]


@pytest.mark.parametrize(
    "make",
    [
        in_the_open,
        with_its_tree_deflated,
        with_names_escaped,
        with_comments,
        without_types,
        with_indirect_parts,
        by_its_count_alone,
        with_one_page_often,
        with_another_tree_within_a_string,
        updated,
        behind_the_data_of_a_picture,
    ],
    ids=lambda each: each.__name__,
)
def test_pages_are_counted_however_they_are_written(make: Callable[[], list[bytes]]) -> None:
    assert most_tokens(written(make())) == PAGES * PAGE_TOKENS


@pytest.mark.parametrize("pack", [stream, deflated])
@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"BT (%s) Tj ET" % (b"a" * 90_000), 90_000),
        (b"BT [(%s) -20 (%s)] TJ ET" % (b"a" * 40_000, b"b" * 40_000), 80_000),
        (b"BT <%s> Tj ET" % (b"0041" * 20_000), 40_000),
        (b"BT (%s(b)%s) Tj ET" % (b"a" * 40_000, b"a" * 40_000), 80_000),
        (b"BT (%s) ' ET" % (b"\\)" * 5_000), 5_000),
        (b"0 0 m 1 1 l S " * 9_000, 0),
    ],
    ids=["text", "array", "hex", "nested", "escaped", "lines"],
)
def test_a_page_s_text_counts_by_its_bytes(pack: Callable[[bytes], bytes], content: bytes, shown: int) -> None:
    found = most_tokens(written([*tree(1, b"/Contents 4 0 R"), pack(content)]))
    assert found is not None
    assert PAGE_TOKENS + shown <= found <= PAGE_TOKENS + 3 * shown + 100


FORM = b"/Subtype/Form"
A85 = b"/Filter[/ASCII85Decode/FlateDecode]"
LONG = b"BT (%s) Tj ET" % (b"a" * 1_000)


@pytest.mark.parametrize(
    ("objects", "shown"),
    [
        ([*tree(4, b"/Contents 7 0 R"), deflated(LONG)], 4_000),
        ([*tree(4, b"/Contents[7 0 R 8%x\n0 R]"), deflated(LONG), stream(LONG)], 8_000),
        ([*tree(4, b"/Contents 8 0 R"), deflated(LONG), b"[7 0 R 7 0 R]"], 8_000),
        ([*tree(1, b"/Contents 4 0 R"), stream(b"BT (%s)%%)\nTj ET" % (b"a" * 1_000))], 1_000),
        ([*tree(1, b"/Contents 4 0 R"), stream(b"%%(\nBT (%s) Tj ET" % (b"a" * 1_000))], 1_000),
        (
            [
                *tree(2, b"/Contents 5 0 R", b"/Resources<</XObject<</X 6 0 R>>>>"),
                stream(b"/X Do /#58%\nDo"),
                stream(b"/Y Do", FORM + b"/Resources<</XObject 8 0 R>>"),
                stream(LONG, FORM),
                b"<</Y 7 0 R>>",
            ],
            4_000,
        ),
        ([*tree(1, b"/Annots[<</AP<</N 4 0 R>>>>]"), stream(LONG, FORM)], 1_000),
        ([*tree(1, b"/Contents 4 0 R"), stream(base64.a85encode(zlib.compress(LONG)) + b"~>", A85)], 1_000),
        (
            [
                *tree(1, b"/Resources<</XObject<</X 4 0 R>>>>/Contents 5 0 R"),
                stream(LONG, b"/Subtype/Image"),
                stream(b"/X Do"),
            ],
            0,
        ),
        ([*tree(1), deflated(LONG)], 0),
    ],
    ids=["shared", "several", "indirect", "comment", "parenthesis", "forms", "note", "ascii", "picture", "unused"],
)
def test_a_text_counts_as_often_as_pages_show_it(objects: list[bytes], shown: int) -> None:
    found = most_tokens(written(objects))
    pages = sum(each.startswith(b"<</Type/Page/") for each in objects)
    assert found is not None
    assert shown <= found - pages * PAGE_TOKENS <= 3 * shown + 100


SHOWN = tree(1, b"/Contents 4 0 R")


@pytest.mark.parametrize(
    "objects",
    [
        [b"<</Type/Catalog>>"],
        [b"<</Type/Page>>"],
        [b"<</Pages 2 0 R>>", b"<</Kids[3 0 R]>>", b"<</Kids[2 0 R]>>"],
        [b"<</Pages 2 0 R>>", b"<</Kids[<</Type/Page>>]>>"],
        [b"<</Pages 2 0 R>>", b"<</Kids[3 0 R]/Kids[3 0 R 3 0 R]>>", b"<<>>"],
        [*tree(1), b"0\nendobj\n2%x\n0 obj<</Kids[]>>"],
        [*tree(1), b"0\nendobj\n2 %5\n0 obj<</Kids[]>>"],
        [*tree(1), b"0\nendobj\n2 0%\nobj<</Kids[]>>"],
        [*tree(1), b"<</Encr#79pt 3 0 R>>"],
        [*tree(1), b"<</Type/ObjStm/N 5 0 R/First 5 0 R>>\nstream\n\nendstream"],
        [*SHOWN, stream(b"zz", b"/Filter/LZWDecode")],
        [*SHOWN, stream(b"zz", b"/Filter 9 0 R"), b"0\nendobj\n9 0 obj/LZWDecode"],
        [*SHOWN, stream(b"no deflate at all", b"/Filter/FlateDecode")],
        [*SHOWN, stream(zlib.compress(LONG)[:-9], b"/Filter/FlateDecode")],
        [*SHOWN, stream(b"zz", b"/Filter[/FlateDecode/LZWDecode]/Other/DCTDecode")],
        [*SHOWN, stream(b"zz", b"/Filter/LZWDecode/Other/DCTDecode")],
        [*SHOWN, stream(b"zz", b"/F 9 0 R")],
        [*SHOWN, deflated(b"zz", b"/DecodeParms<</Predictor 12>>")],
        [*SHOWN, b"<<>>\nstream zz"],
        [*SHOWN, deflated(bytes(33 * 1024 * 1024))],
        [*SHOWN, stream(b"/X Do", FORM + b"/Resources<</XObject<</X 4 0 R>>>>")],
        [*SHOWN, stream(b"/X pop Do")],
        [*SHOWN, b"["],
    ],
    ids=[
        "no page",
        "no tree",
        "a ring",
        "direct",
        "twice",
        "a number with a comment",
        "a number in a comment",
        "a comment behind a number",
        "encrypted",
        "an index elsewhere",
        "lzw",
        "elsewhere",
        "broken",
        "cut",
        "hidden",
        "mislabelled",
        "another file",
        "shuffled",
        "no beginning",
        "a bomb",
        "draws itself",
        "draws who knows what",
        "no end",
    ],
)
def test_what_cannot_be_looked_at_has_no_bound(objects: list[bytes]) -> None:
    assert most_tokens(written(objects)) is None


@pytest.mark.parametrize(
    "piece",
    [
        b"stream\n",
        b"/Kids[",
        b"/Type",
        b"/Type/Pages ",
        b"(",
        b"<0",
        b")  ",
        b"#41",
        b"/Filter[",
        b"obj stream\nendstream",
        b"1 0 obj(",
        b"1 0 obj<<",
        b"2 0 obj[3 0 R]",
        b"()",
    ],
)
def test_a_file_that_is_made_to_be_slow_is_not(piece: bytes) -> None:
    began = monotonic()
    most_tokens(written([*SHOWN, deflated(piece * (8_000_000 // len(piece)))]))
    most_tokens(written([*SHOWN, deflated(b""), piece * (2_000_000 // len(piece))]))
    assert monotonic() - began < 5


def test_pictures_are_not_looked_at() -> None:
    assert most_tokens(written([*tree(2), stream(b"\xff\xd8", b"/Subtype/Image/Filter/DCTDecode")])) == 2 * PAGE_TOKENS
    assert most_tokens("no base64") is None

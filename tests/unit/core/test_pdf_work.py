"""The cost of a PDF, and of all PDFs of one request together: processor time and memory, whatever they refer to."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest

from karma.core import pdf_pages
from karma.core.foreign import MAX_WORK, WorkLeft, allowance, one_allowance
from karma.core.pdf_pages import Content, content_of

pytestmark = pytest.mark.fault("F-25t")

MOST_S = 4.0
"""Of a processor that others use, too; none of the shapes takes a second of an idle one."""
MOST_MB = 128
"""Of the streaming function's 384 MB, of which a third is taken before."""
HEAD, FOOT = b"%PDF-1.7\n", b"\nstartxref\n0\n%%EOF"


def ways(width: int, depth: int) -> bytes:
    """Return a tree with as many ways to its leaves as `width` to the power of `depth`, each with its own resources."""
    out = HEAD
    for level in range(1, depth):
        kids = b" ".join(b"%d 0 R" % (width * (level + 1) + one) for one in range(width))
        for one in range(width):
            out += b"%d 0 obj<</Resources<</X 0>>/Kids[%s]>>endobj\n" % (width * level + one, kids)
    return out + b"100000 0 obj<</Pages %d 0 R>>endobj" % width + FOOT


def defined_often(often: int) -> bytes:
    """Return such a tree whose two leaves have many definitions each."""
    return ways(2, 12).removesuffix(FOOT) + b"24 0 obj<<>>endobj\n25 0 obj<<>>endobj\n" * often + FOOT


def deflated(head: bytes, data: bytes) -> bytes:
    return b"<<%s/Filter/FlateDecode>>stream\n%s\nendstream endobj\n" % (head, zlib.compress(data, 9))


def page_of(data: bytes) -> bytes:
    objects = b"1 0 obj<</Type/Page/Contents 2 0 R>>endobj 3 0 obj<</Pages 1 0 R>>endobj 2 0 obj"
    return HEAD + objects + deflated(b"", data) + FOOT


def object_stream(data: bytes, n: int = 0) -> bytes:
    objects = b"1 0 obj<<>>endobj 3 0 obj<</Pages 1 0 R>>endobj 9 0 obj"
    return HEAD + objects + deflated(b"/N %d/First 1" % n, data) + FOOT


def filtered(streams: int, filters: int) -> bytes:
    out = HEAD + b"1 0 obj<</Type/Page/Contents[%s]>>endobj\n3 0 obj<</Pages 1 0 R>>endobj 4 0 obj[%s]endobj\n" % (
        b" ".join(b"%d 0 R" % (10 + i) for i in range(streams)),
        b"null " * filters,
    )
    for i in range(streams):
        out += b"%d 0 obj<</DecodeParms 4 0 R>>stream\nendstream endobj\n" % (10 + i)
    return out + FOOT


def noted(notes: int, states: int) -> bytes:
    """Return a page whose notes have one appearance together, of states that nobody defines."""
    objects = b"1 0 obj<</Type/Page/Annots[%s]>>endobj\n3 0 obj<</Pages 1 0 R>>endobj " % (b"5 0 R " * notes)
    members = b"".join(b"/S%d 99 0 R" % i for i in range(states))
    return HEAD + objects + b"5 0 obj<</AP 6 0 R>>endobj 6 0 obj<<%s>>endobj" % members + FOOT


SHAPES: dict[str, Callable[[], bytes]] = {
    "two ways a level": lambda: ways(2, 37),
    "eight ways a level": lambda: ways(8, 7),
    "many definitions": lambda: defined_often(5_000),
    "many objects": lambda: HEAD + b"1 0 obj<<>>endobj\n" * 200_000 + FOOT,
    "types of pages": lambda: object_stream(b"/Type/Page " * 2_900_000),
    "trees of pages": lambda: object_stream(b"".join(b"/Pages %d 0 R " % i for i in range(200_000))),
    "numbers of objects": lambda: object_stream(b"".join(b"%d 0 " % i for i in range(190_000)), 190_000),
    "names that are drawn": lambda: page_of(b"".join(b"/A%d Do " % i for i in range(200_000))),
    "strings": lambda: page_of(b"()Tj " * 1_590_000),
    "open strings": lambda: page_of(b"((" * 15_000_000),
    "one string": lambda: page_of(b"(" + b"a" * 32_000_000 + b")"),
    "filters of many streams": lambda: filtered(2_000, 40_000),
    "states of many notes": lambda: noted(9_000, 9_000),
}


READ_EACH = """
import resource, sys, time
from pathlib import Path
from karma.core.pdf_pages import content_of
def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak_mb()
for path in map(Path, sys.argv[1:]):
    began = time.process_time()
    content_of(path.read_bytes())
    print(path.name, time.process_time() - began, peak_mb() - before, sep=":")
"""


def test_no_shape_of_a_file_takes_much_time_or_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak of memory is not that of other tests."""
    paths = [tmp_path / shape for shape in SHAPES]
    for path in paths:
        path.write_bytes(SHAPES[path.name]())

    told = subprocess.run(
        [sys.executable, "-c", READ_EACH, *map(str, paths)], capture_output=True, text=True, check=True
    ).stdout

    took = {
        shape: (float(seconds), float(mb)) for shape, seconds, mb in (each.split(":") for each in told.split("\n")[:-1])
    }
    assert list(took) == list(SHAPES)
    assert {shape: each for shape, each in took.items() if each[0] > MOST_S or each[1] > MOST_MB} == {}


def spent_on(raw: bytes) -> int:
    """Return the work of one file alone."""
    pdf_pages._known.clear()
    with one_allowance():
        content_of(raw)
        return MAX_WORK - allowance().left


PRODUCTS: dict[str, tuple[Callable[[int], bytes], int, int]] = {
    "ways": (lambda n: ways(2, n), 5, 3),
    "definitions": (lambda n: ways(2, n).removesuffix(FOOT) + b"%d 0 obj<<>>endobj\n" % (2 * n) * 2**n + FOOT, 6, 8),
    "filters": (lambda n: filtered(2**n, 2**n), 6, 8),
    "notes": (lambda n: noted(2**n, 2**n), 6, 8),
}
"""Files by their size, the smaller of two sizes, and by how much more work the larger one takes at the least."""


@pytest.mark.parametrize("shape", PRODUCTS)
def test_work_is_spent_for_what_is_looked_at_again(shape: str) -> None:
    """Work is the square of a file of four times the size, and the power of two levels more."""
    made, n, more = PRODUCTS[shape]
    assert spent_on(made(n + 2)) > more * spent_on(made(n))


def small(n: int) -> bytes:
    return HEAD + b"%%%d\n1 0 obj<</Type/Page>>endobj 3 0 obj<</Pages 1 0 R>>endobj" % n + FOOT


def test_files_of_one_request_have_their_work_together() -> None:
    files = [small(n) for n in range(5_000)]
    began = process_time()
    with one_allowance():
        found = list(map(content_of, files))
    took = process_time() - began

    known = found.count(Content(1, 0))
    assert 1_000 < known < 4_000
    assert found == [Content(1, 0)] * known + [None] * (5_000 - known), "those that are left are not looked at"
    assert took < MOST_S
    assert content_of(files[-1]) == Content(1, 0), "it is no fault of the file: another request reads it"


def test_a_file_that_is_known_takes_no_work_again() -> None:
    with one_allowance():
        content_of(small(-1))
        left = allowance().left
        assert content_of(small(-1)) == Content(1, 0)
        assert allowance().left == left


def test_threads_tasks_and_blocks_within_a_request_have_its_allowance() -> None:
    async def request() -> list[WorkLeft]:
        with one_allowance():
            own = allowance()
            in_thread = await asyncio.to_thread(allowance)

            async def task() -> WorkLeft:
                with one_allowance():
                    return allowance()

            return [own, in_thread, await asyncio.create_task(task())]

    async def two() -> tuple[list[WorkLeft], list[WorkLeft]]:
        one, other = await asyncio.gather(request(), request())
        return one, other

    one, other = asyncio.run(two())
    assert len(set(map(id, one))) == len(set(map(id, other))) == 1
    assert one[0] is not other[0]

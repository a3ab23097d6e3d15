"""Odd and hostile files in the real child process: each gives a thumbnail or a reason, in bounds of time and memory."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from PIL import Image

from karma.files.ports import Rendering
from karma.files.previews import PreviewStatus, Refusal
from karma.integrations import preview_process
from karma.integrations.preview_process import ChildRenderer, package_folders, parts_of
from tests.support.odd_files import DOCUMENTS, PICTURES, animation, document, picture, saved, turned, words

CPU_S = preview_process.CPU_S + 2
"""More than the limit of a child, by what it takes the kernel to see it."""


def rendered(data: bytes, *, is_document: bool = False) -> Rendering:
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.flush()
        return ChildRenderer().render(source, is_document=is_document)


def seen(rendering: Rendering) -> str:
    thumbnail = rendering.thumbnail
    if thumbnail.status is PreviewStatus.REFUSED:
        assert rendering.picture == b""
        return str(thumbnail.reason)
    shown = Image.open(io.BytesIO(rendering.picture), formats=["WEBP"])
    shown.load()
    assert shown.size == (thumbnail.width, thumbnail.height)
    assert not shown.info.keys() & {"exif", "icc_profile", "xmp"}
    return f"{thumbnail.width}x{thumbnail.height}"


def read(rendering: Rendering) -> str:
    text = rendering.text
    if text.status is PreviewStatus.REFUSED:
        assert rendering.words == b""
        return str(text.reason)
    assert len(rendering.words.decode()) == text.characters
    return f"{text.pages} pages{', truncated' if text.is_truncated else ''}"


def most_of_children(before: resource.struct_rusage) -> float:
    """Return the kilobytes that the largest child may have had: earlier ones count, and what each begins as, a copy."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(before.ru_maxrss, own, preview_process.PICTURE_MEMORY / 1024)


@pytest.mark.req("R-K-15")
@pytest.mark.parametrize("name", PICTURES)
def test_an_odd_picture_gives_a_thumbnail_or_a_reason(name: str) -> None:
    make, expected = PICTURES[name]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    rendering = rendered(make())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert seen(rendering) == expected
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_S
    assert after.ru_maxrss <= most_of_children(before)


@pytest.mark.req("R-K-15")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_odd_document_gives_its_parts_or_a_reason_for_each(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What never ends need not take as long here.
    monkeypatch.setattr(preview_process, "CPU_S", 3)
    make, thumbnail, text = DOCUMENTS[name]
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    rendering = rendered(make(), is_document=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert seen(rendering) == thumbnail or seen(rendering) in thumbnail.split()
    assert read(rendering) == text or read(rendering) in text.split()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_S
    assert after.ru_maxrss <= most_of_children(before)
    assert time.monotonic() - began < preview_process.WALL_S + 5


class TestAThumbnail:
    def test_shows_the_picture_as_its_camera_was_held(self) -> None:
        shown = Image.open(io.BytesIO(rendered(turned(6)).picture)).convert("RGB")
        left, right = shown.getpixel((5, 40)), shown.getpixel((35, 40))
        assert isinstance(left, tuple)
        assert isinstance(right, tuple)
        assert left[2] > 150 > left[0]
        assert right[0] > 150 > right[2]

    def test_shows_the_first_picture_of_an_animation(self) -> None:
        shown = Image.open(io.BytesIO(rendered(animation()).picture)).convert("RGB").getpixel((20, 15))
        assert isinstance(shown, tuple)
        assert shown[0] > 230
        assert shown[2] < 20

    def test_keeps_what_is_transparent_and_scales_sixteen_bits(self) -> None:
        clear = rendered(saved(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG"))
        assert Image.open(io.BytesIO(clear.picture)).convert("RGBA").getpixel((9, 9)) == (0, 0, 0, 0)
        grey = rendered(saved(Image.new("I;16", (20, 20), 128 * 256), "PNG"))
        darkest, lightest = Image.open(io.BytesIO(grey.picture)).convert("L").getextrema()
        assert isinstance(darkest, float | int)
        assert isinstance(lightest, float | int)
        assert 124 <= darkest <= lightest <= 132


class TestTheText:
    def test_is_that_of_the_pages_in_their_order(self) -> None:
        rendering = rendered(document(words(b"First page"), words(b"Second page")), is_document=True)
        assert rendering.words == b"First page\nSecond page"


class TestTheChild:
    def test_can_open_nothing_and_has_no_environment(self, tmp_path: Path) -> None:
        """A program that has the child's limits tries what a parser that was taken over would try."""
        child = Path(preview_process.__file__).with_name("preview_child.py")
        program = tmp_path / "taken_over.py"
        program.write_text(
            "import importlib.util, os, resource, socket, sys\n"
            f"spec = importlib.util.spec_from_file_location('preview_child', {str(child)!r})\n"
            "module = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(module)\n"
            "def write(_name, _make):\n"
            "    found = []\n"
            "    for attempt in (lambda: open('/etc/passwd'), lambda: open('/proc/%d/environ' % os.getppid()),\n"
            "                    socket.socket, lambda: os.pipe(), lambda: os.listdir('/')):\n"
            "        try:\n"
            "            attempt()\n"
            "            found.append('opened')\n"
            "        except OSError as exc:\n"
            "            found.append(exc.errno)\n"
            "    os.write(1, repr((found, dict(os.environ))).encode())\n"
            "module.write_part = write\n"
            "module.main(sys.argv[1:])\n"
        )
        with tempfile.TemporaryFile() as source:
            source.write(saved(picture(), "PNG"))
            source.seek(0)
            done = subprocess.run(
                [sys.executable, "-I", "-S", program, *package_folders(), "--", "image", str(600 * 1024**2), "8"],
                stdin=source,
                capture_output=True,
                check=True,
                env={},
            )
        found, environment = eval(done.stdout)
        assert found == [24] * 5
        assert environment.keys() <= {"LC_CTYPE"}

    @pytest.mark.parametrize(
        "written",
        [b"", b"\n", b"no json\n", b"[]\n", b'{"part": "thumbnail"}\n', b'{"part": "thumbnail", "bytes": -1}\n',
         b'{"part": "thumbnail", "bytes": 900}\nshort', b'{"part": "other", "bytes": 0}\n', b"{" * 5000],
    )  # fmt: skip
    def test_is_not_believed(self, written: bytes) -> None:
        assert parts_of(io.BytesIO(written)) == {}

    @pytest.mark.parametrize(
        "facts",
        [b'"width": 9, "height": 9', b'"reason": "none of ours"', b'"reason": {}', b'"width": true, "height": "9"'],
    )
    def test_is_refused_where_its_parts_are_not_of_their_form(
        self, facts: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        forger = tmp_path / "forger.py"
        forger.write_text(f'import os\nos.write(1, b\'{{"part": "thumbnail", "bytes": 4, {facts.decode()}}}\\n<svg\')')
        monkeypatch.setattr(preview_process, "_CHILD", forger)
        assert rendered(b"").thumbnail.reason is Refusal.PARSER_KILLED

    def test_that_hangs_is_killed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        sleeper = tmp_path / "sleeper.py"
        sleeper.write_text("import time\ntime.sleep(600)")
        monkeypatch.setattr(preview_process, "_CHILD", sleeper)
        monkeypatch.setattr(preview_process, "WALL_S", 0.5)
        assert rendered(b"").thumbnail.reason is Refusal.TOO_SLOW

"""Memory that a large request leaves is freed before the next one."""

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from karma.core.runtime.memory import relieve


class Left:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("most", "is_freed"), [(0, True), (1 << 50, False)])
def test_cycles_are_freed_where_a_process_has_grown(
    monkeypatch: pytest.MonkeyPatch, most: int, *, is_freed: bool
) -> None:
    monkeypatch.setattr("karma.core.runtime.memory._LARGE_BYTES", most)
    left = weakref.ref(Left())
    assert left() is not None
    relieve()
    assert (left() is None) is is_freed

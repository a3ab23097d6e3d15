"""The front of the local environment announces an answer's length only where it is the true one."""

from __future__ import annotations

import pytest

from local.front import _length


@pytest.mark.fault("F-24m")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("said", [None, b"0", b"7"])
def test_a_length_is_the_one_that_get_has_or_is_not_told(method: str, said: bytes | None) -> None:
    content = b"" if method == "HEAD" else b"1234567"
    answer = [] if said is None else [(b"Content-Length", said)]
    expected = b"7" if method != "HEAD" else b"7" if said == b"7" else b""
    assert _length(method, answer, content) == expected

"""A request that names its place in a list twice is refused; no part of it is ignored."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from karma.core.errors import InvalidRequest
from karma.http.pages import Place

GIVEN: dict[str, tuple[Any, ...]] = {
    "page": (None, 1, 2),
    "offset": (None, 0, 3),
    "cursor": (None, "x"),
    "limit": (None, 5),
    "page_size": (None, 5, 6),
}


@pytest.mark.fault("F-24l")
def test_no_parameter_of_a_page_is_ignored() -> None:
    for values in product(*GIVEN.values()):
        given = dict(zip(GIVEN, values, strict=True))
        places = [given[name] for name in ("page", "offset", "cursor") if given[name] is not None]
        sizes = {given[name] for name in ("limit", "page_size")} - {None}
        if len(places) > 1 or len(sizes) > 1:
            with pytest.raises(InvalidRequest) as refused:
                Place.of("s", **given)
            assert refused.value.code == "INVALID_PAGE"
        elif given["cursor"] is None:
            place = Place.of("s", **given)
            size = next(iter(sizes), 20)
            assert place.size == size
            assert place.offset == (given["offset"] or ((given["page"] or 1) - 1) * size)

"""Events as Stripe's webhook reads them."""

import pytest

from karma.billing.arrival import read_arrival
from karma.core.errors import InvalidRequest
from karma.core.freeform import MAX_LEVELS


@pytest.mark.fault("F-08a")
@pytest.mark.parametrize("levels", [MAX_LEVELS, MAX_LEVELS + 1, 1_000, 2_000])
def test_an_event_has_at_most_64_levels(levels: int) -> None:
    inner = "[" * (levels - 3) + "]" * (levels - 3)
    body = f'{{"id":"evt_1","type":"customer.updated","data":{{"object":{{"a":{inner}}}}}}}'.encode()

    if levels <= MAX_LEVELS:
        assert read_arrival(body).id == "evt_1"
        return
    with pytest.raises(InvalidRequest, match="data: nested deeper than 64 levels") as refused:
        read_arrival(body)
    assert refused.value.code == "INVALID_EVENT"

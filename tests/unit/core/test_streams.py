"""Records of streams: what is binary comes as bytes, and a bad record keeps no other from a consumer."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from background.streams import consume
from karma.core.dynamo.packed import pack, unpack
from karma.core.errors import StorageThrottled
from karma.core.streams import InOrder, StreamRecord, image_of
from tests.support.stream_records import as_lambda_has_them

VALUES = st.recursive(
    st.one_of(
        st.builds(lambda text: {"S": text}, st.text(max_size=5)),
        st.builds(lambda number: {"N": str(number)}, st.integers()),
        st.just({"BOOL": True}),
        st.just({"NULL": True}),
        st.builds(lambda held: {"B": held}, st.binary(max_size=40)),
        st.builds(lambda held: {"BS": held}, st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=3)),
        st.builds(lambda held: {"SS": held}, st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3)),
    ),
    lambda inner: st.one_of(
        st.builds(lambda held: {"L": held}, st.lists(inner, max_size=3)),
        st.builds(lambda held: {"M": held}, st.dictionaries(st.sampled_from(["B", "BS", "M", "x"]), inner, max_size=3)),
    ),
    max_leaves=6,
)


def record(n: int, image: dict[str, Any] | None = None) -> dict[str, Any]:
    keys = {"pk": {"S": "RUN#r"}, "sk": {"S": f"SEG#{n:08d}"}}
    new = {**keys, **(image or {})}
    return {"eventName": "INSERT", "dynamodb": {"Keys": keys, "NewImage": new, "SequenceNumber": str(n)}}


class TestImages:
    def test_are_read_as_aws_documents_them(self) -> None:
        """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_AttributeValue.html"""
        image = {
            "one": {"B": "dGhpcyB0ZXh0IGlzIGJhc2U2NC1lbmNvZGVk"},
            "some": {"BS": ["U3Vubnk=", "UmFpbnk=", "U25vd3k="]},
            "within": {"M": {"B": {"L": [{"B": "U3Vubnk="}, {"S": "U3Vubnk="}]}}},
            "text": {"S": "U3Vubnk="},
        }
        assert image_of(image) == {
            "one": {"B": b"this text is base64-encoded"},
            "some": {"BS": [b"Sunny", b"Rainy", b"Snowy"]},
            "within": {"M": {"B": {"L": [{"B": b"Sunny"}, {"S": "U3Vubnk="}]}}},
            "text": {"S": "U3Vubnk="},
        }
        assert image_of(None) is None

    @given(image=st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
    def test_are_those_that_a_client_of_dynamodb_reads(self, image: dict[str, Any]) -> None:
        [event] = as_lambda_has_them([record(1, image)])
        new = StreamRecord.read(event).change.new
        assert new == image_of(new) == record(1, image)["dynamodb"]["NewImage"]

    @pytest.mark.parametrize("plain", [b"{}", b'{"delta":"Moving the gantry."}\n' * 100], ids=["plain", "packed"])
    def test_have_what_was_packed(self, plain: bytes) -> None:
        event = record(1, {"events": {"B": b64encode(pack(plain)).decode()}})
        new = StreamRecord.read(json.loads(json.dumps(event))).change.new
        assert new is not None
        assert unpack(new["events"]["B"]) == plain

    def test_that_are_broken_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"base64|Incorrect padding"):
            image_of({"events": {"B": "no base64!"}})


class Taking:
    def __init__(self, *bad: int, busy: int = 0) -> None:
        self.bad, self.busy, self.taken = bad, busy, list[int]()

    def take(self, records: Sequence[StreamRecord]) -> int:
        for each in records:
            n = int(each.sequence_number)
            if n == self.busy:
                raise StorageThrottled("busy")
            if n in self.bad:
                raise TypeError("text in the place of bytes")
        self.taken += [int(each.sequence_number) for each in records]
        return len(records)


class Counting(Taking, InOrder):
    pass


def given_back(*consumers: Taking) -> list[str]:
    event = {"Records": [record(n) for n in range(1, 8)]}
    return [each["itemIdentifier"] for each in consume(event, *consumers)["batchItemFailures"]]


@pytest.mark.req("R-K-21")
class TestABatch:
    def test_is_taken_whole(self) -> None:
        taking = Taking()
        assert given_back(taking) == []
        assert taking.taken == [1, 2, 3, 4, 5, 6, 7]

    def test_with_bad_records_loses_them_alone(self) -> None:
        first, other = Taking(3, 5), Taking()
        assert given_back(first, other) == ["3"]
        assert first.taken == [1, 2, 4, 6, 7]
        assert other.taken == [1, 2, 3, 4, 5, 6, 7]

    def test_is_taken_up_to_a_bad_record_by_whoever_needs_the_order(self) -> None:
        counting = Counting(3)
        assert given_back(counting, Taking()) == ["3"]
        assert counting.taken == [1, 2]

    def test_comes_again_from_the_first_that_was_not_taken(self) -> None:
        assert given_back(Taking(5, busy=3)) == ["1"], "the table was away before anybody saw which one is bad"
        taking = Taking(2, busy=5)
        assert given_back(taking) == ["2"]
        assert taking.taken == [1, 3, 4]

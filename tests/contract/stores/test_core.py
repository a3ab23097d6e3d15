"""The database access that every context uses: one suite for both engines."""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import PynamoDBException

from karma.core import aws
from karma.core.clock import monotonic
from karma.core.dynamo.access import batch_get, delete, get, put, query, update, upsert
from karma.core.dynamo.counters import CounterAttributes, counter_key, fold
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.partitions import delete_keys, empty, pages
from karma.core.dynamo.reads import Reads
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import due_sk, put_off, query_work
from karma.core.errors import AlreadyExists, Gone, NotFound, StorageThrottled, StorageUnavailable
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from tests.support.clients import hooked
from tests.support.stores import Database
from tests.support.wire import Params, Wire, error, on


class ShelfItem(Item):
    class Meta(TableMeta):
        logical = "devices"


class BookItem(ShelfItem, discriminator="book"):
    title = UnicodeAttribute()
    copies = NumberAttribute(default=1)


class DeskItem(Item):
    class Meta(TableMeta):
        logical = "agents"


class MessageItem(DeskItem, discriminator="message_on_desk"):
    text = UnicodeAttribute()


class UniqueItem(ShelfItem, discriminator="unique"):
    pass


class ShelfCounter(CounterAttributes, ShelfItem, discriminator="counter"):
    pass


pytestmark = pytest.mark.usefixtures("database")


def book(number: int, title: str = "t") -> BookItem:
    return BookItem("SHELF#1", f"BOOK#{number:04d}", title=title)


def both(one: Key, other: Key) -> tuple[BookItem | None, UniqueItem | None, MessageItem | None]:
    """Read a book, the same key as another type, and a key of another table, in one call."""
    reads = Reads()
    found = reads.item(BookItem, one), reads.item(UniqueItem, one), reads.item(MessageItem, other)
    reads.read()
    return found[0](), found[1](), found[2]()


def purge(*, ends_in_s: float = 60) -> PurgeAttempt:
    return PurgeAttempt(
        user_id=UserId("u"), requested_at=datetime.now(UTC), ends_at=monotonic() + ends_in_s, settled=True
    )


@pytest.fixture
def held() -> Iterator[Callable[[int], None]]:
    """Answer the next transactions as DynamoDB does while another one holds their item; the engine never does."""
    body = orjson.dumps(
        {
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "message": "Transaction cancelled",
            "CancellationReasons": [{"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}],
        }
    )
    left = 0

    def answer(request: AWSPreparedRequest, **_: object) -> AWSResponse | None:
        nonlocal left
        if left == 0:
            return None
        left -= 1
        headers = HTTPHeaders.from_dict({"content-type": "application/x-amz-json-1.0"})
        return AWSResponse(request.url, 400, headers, RawBody(body))

    def hold(times: int) -> None:
        nonlocal left
        left = times

    with hooked("dynamodb", "before-send.dynamodb.TransactWriteItems", answer):
        yield hold


class RawBody(io.BytesIO):
    """Body of an answer, as botocore reads it."""

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self.read()


class TestSingleItems:
    def test_a_new_item_is_not_written_over_an_old_one(self) -> None:
        put(book(1, "first"))
        with pytest.raises(ConditionFailed):
            put(book(1, "second"))
        stored = get(BookItem, Key("SHELF#1", "BOOK#0001"))
        assert stored is not None
        assert (stored.title, stored.version) == ("first", 1)

    @pytest.mark.req("R-M-05")
    def test_a_change_of_an_older_version_is_refused(self) -> None:
        put(book(1))
        mine, other = get(BookItem, Key("SHELF#1", "BOOK#0001")), get(BookItem, Key("SHELF#1", "BOOK#0001"))
        assert mine is not None
        assert other is not None
        update(other, [BookItem.title.set("theirs")], locked=True)
        with pytest.raises(ConditionFailed):
            update(mine, [BookItem.title.set("mine")], locked=True)

    def test_an_absent_item_is_not_created_by_a_change(self) -> None:
        with pytest.raises(ConditionFailed):
            update(book(9), [BookItem.title.set("x")])
        assert get(BookItem, Key("SHELF#1", "BOOK#0009")) is None

    def test_an_upsert_creates_and_then_changes(self) -> None:
        assert upsert(book(2), [BookItem.copies.add(2)]).copies == 2
        assert upsert(book(2), [BookItem.copies.add(3)]).copies == 5

    def test_a_delete_with_a_lock_spares_what_somebody_changed(self) -> None:
        put(book(1))
        mine = get(BookItem, Key("SHELF#1", "BOOK#0001"))
        assert mine is not None
        update(book(1), [BookItem.title.set("changed")])
        with pytest.raises(ConditionFailed):
            delete(mine, locked=True)

    def test_an_item_of_another_type_is_not_returned(self) -> None:
        put(UniqueItem("SHELF#1", "BOOK#0001"))
        assert get(BookItem, Key("SHELF#1", "BOOK#0001")) is None


class TestQueries:
    def test_pages_follow_each_other_without_gap_or_repeat(self) -> None:
        for number in range(7):
            put(book(number))
        first = query(BookItem, "SHELF#1", BookItem.sk.startswith("BOOK#"), limit=3, forward=False)
        assert first.last is not None
        second = query(BookItem, "SHELF#1", BookItem.sk.startswith("BOOK#"), limit=5, forward=False, start=first.last)
        assert [item.sk for item in [*first.items, *second.items]] == [f"BOOK#{n:04d}" for n in range(6, -1, -1)]
        assert second.last is None

    def test_a_page_of_the_index_holds_only_items_that_are_in_it(self) -> None:
        put(book(1))
        put(BookItem("SHELF#1", "BOOK#0002", title="t", gsi1pk="LOANED", gsi1sk="2026"))
        found = query(ShelfItem, "LOANED", limit=10, index=ShelfItem.gsi1)
        assert [item.sk for item in found.items] == ["BOOK#0002"]

    def test_what_is_due_is_put_off_by_who_has_read_it_last(self) -> None:
        now, later = datetime(2026, 12, 1, tzinfo=UTC), datetime(2026, 12, 2, tzinfo=UTC)
        put(BookItem("SHELF#1", "BOOK#0001", title="t", gsi1pk="LOANED", gsi1sk=due_sk(now, "1")))
        before = get(BookItem, book(1).key, consistent=True)
        due = query_work(BookItem, "LOANED", BookItem.gsi1sk < due_sk(later, ""), lambda each: each.sk, limit=5)
        put_off(due.items.places[0], until=later)
        with pytest.raises(ConditionFailed):
            put_off(due.items.places[0], until=later)
        after = get(BookItem, book(1).key, consistent=True)
        assert before is not None
        assert after is not None
        assert (after.gsi1sk, after.version) == (due_sk(later, "1"), before.version)

    def test_several_types_come_back_as_themselves(self) -> None:
        put(book(1))
        put(UniqueItem("SHELF#1", "GUARD"))
        assert {type(item) for item in query(ShelfItem, "SHELF#1", limit=10).items} == {BookItem, UniqueItem}

    def test_many_items_are_read_at_once(self) -> None:
        keys = []
        for number in range(3):
            put(book(number))
            keys.append(book(number).key)
        assert set(batch_get(BookItem, [*keys, Key("SHELF#1", "BOOK#0099")])) == set(keys)


class TestTransactions:
    def test_all_or_nothing_and_the_failed_write_names_its_error(self) -> None:
        put(UniqueItem("UNIQUE#a", "GUARD"))
        tx = Transaction()
        tx.put(book(1))
        tx.update(book(2), [BookItem.title.set("x")], BookItem.pk.does_not_exist())
        tx.put(UniqueItem("UNIQUE#a", "GUARD"), on_fail=AlreadyExists("taken"))
        with pytest.raises(AlreadyExists, match="taken"):
            tx.commit()
        assert get(BookItem, book(1).key) is None
        assert get(BookItem, book(2).key) is None

    def test_reasons_are_matched_whatever_the_order_of_the_calls(self) -> None:
        put(book(1))
        tx = Transaction()
        tx.put(book(2))
        tx.delete(book(1))
        tx.check(BookItem, Key("SHELF#1", "PARENT"), BookItem.pk.exists(), on_fail=Gone("parent deleted"))
        with pytest.raises(Gone, match="parent deleted"):
            tx.commit()
        assert get(BookItem, book(1).key) is not None

    def test_a_committed_item_can_be_changed_under_its_lock(self) -> None:
        item = book(1)
        tx = Transaction()
        tx.put(item)
        tx.commit()
        assert update(item, [BookItem.title.set("next")], locked=True).version == 2

    def test_a_repeat_with_the_same_token_succeeds_without_writing(self) -> None:
        for _ in range(2):
            tx = Transaction(token="0123456789")
            tx.upsert(book(1), [BookItem.title.set("t"), BookItem.copies.add(1)])
            tx.commit()
        stored = get(BookItem, book(1).key)
        assert stored is not None
        assert stored.copies == 1

    def test_waits_for_another_transaction_that_holds_an_item(self, held: Callable[[int], None]) -> None:
        held(2)
        tx = Transaction()
        tx.put(book(1))
        tx.commit()
        assert get(BookItem, book(1).key) is not None

    def test_gives_up_on_an_item_that_others_never_let_go(self, held: Callable[[int], None]) -> None:
        held(100)
        tx = Transaction()
        tx.put(book(1))
        with pytest.raises(StorageThrottled) as caught:
            tx.commit()
        assert type(caught.value) is StorageThrottled
        assert get(BookItem, book(1).key) is None

    def test_nothing_to_write_is_no_call(self) -> None:
        Transaction().commit()


class TestABusyDatabase:
    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("LimitExceededException", StorageThrottled),
            ("ProvisionedThroughputExceededException", StorageThrottled),
            ("RequestLimitExceeded", StorageThrottled),
            ("ThrottlingException", StorageThrottled),
            ("TransactionInProgressException", StorageThrottled),
            ("InternalServerError", StorageUnavailable),
            ("ServiceUnavailable", StorageUnavailable),
            ("ResourceNotFoundException", PynamoDBException),
            ("ValidationException", PynamoDBException),
        ],
    )
    def test_is_told_by_its_code_and_other_codes_are_bugs(self, code: str, told: type[Exception]) -> None:
        tx = Transaction()
        tx.put(book(1))
        calls: list[Callable[[], object]] = [
            lambda: get(BookItem, book(1).key),
            lambda: put(book(1)),
            lambda: update(book(1), [BookItem.copies.add(1)]),
            lambda: query(BookItem, "SHELF#1", limit=5),
            lambda: batch_get(BookItem, [book(1).key]),
            lambda: both(book(1).key, book(2).key),
            tx.commit,
        ]
        with on(Wire(answer=lambda _number, _operation, _params: error(code))):
            for call in calls:
                with pytest.raises(told) as caught:
                    call()
                assert isinstance(caught.value, told)
        assert get(BookItem, book(1).key) is None

    def test_is_asked_again_for_what_a_batch_left_out(self, database: Database) -> None:
        put(book(1))
        table = database.tables["devices"]

        def left_out(number: int, _: str, params: Params) -> dict[str, Any] | None:
            return {"Responses": {table: []}, "UnprocessedKeys": params["RequestItems"]} if number < 2 else None

        wire = Wire(answer=left_out)
        with on(wire):
            assert set(batch_get(BookItem, [book(1).key])) == {book(1).key}
        assert len(wire.requests) == 3

    @pytest.mark.parametrize("times", [1, 3, 4])
    def test_is_asked_four_times_for_items_of_several_tables(self, times: int) -> None:
        put(book(1))
        put(MessageItem(*book(2).key, text="t"))

        def left_out(number: int, _: str, params: Params) -> dict[str, Any] | None:
            return {"Responses": {}, "UnprocessedKeys": params["RequestItems"]} if number < times else None

        wire = Wire(answer=left_out)
        with on(wire):
            if times == 4:
                with pytest.raises(StorageThrottled):
                    both(book(1).key, book(2).key)
            else:
                book_1, unique, message = both(book(1).key, book(2).key)
                assert book_1 is not None
                assert message is not None
                assert (book_1.title, unique, message.text) == ("t", None, "t")
        assert len(wire.requests) == min(times + 1, 4)

    def test_is_not_asked_for_nothing(self) -> None:
        with on(wire := Wire()):
            Reads().read()
        assert not wire.requests

    @pytest.mark.parametrize("times", [1, 4, 5])
    def test_is_asked_five_times_to_delete_a_batch(self, database: Database, times: int) -> None:
        put(book(1))

        def left_out(number: int, _: str, params: Params) -> dict[str, Any] | None:
            return {"UnprocessedItems": params["RequestItems"]} if number < times else None

        assert database.tables["devices"]
        with on(Wire(answer=left_out)):
            if times == 5:
                with pytest.raises(StorageThrottled):
                    delete_keys(ShelfItem, [book(1).key])
            else:
                delete_keys(ShelfItem, [book(1).key])
        assert (get(BookItem, book(1).key, consistent=True) is None) == (times < 5)


class TestPartitions:
    def test_are_emptied_but_for_what_is_kept_and_as_far_as_the_time_reaches(self) -> None:
        for number in range(120):
            put(book(number))
        assert not empty(ShelfItem, "SHELF#1", purge(ends_in_s=-1))
        assert [len(page) for page in pages(ShelfItem, "SHELF#1", prefix="BOOK#")] == [100, 20]
        assert empty(ShelfItem, "SHELF#1", purge(), keep={"BOOK#0007"})
        assert [page for page in pages(ShelfItem, "SHELF#1") if page] == [[book(7).key]]
        delete_keys(ShelfItem, [book(7).key, book(8).key])
        assert [page for page in pages(ShelfItem, "SHELF#1") if page] == []

    def test_of_the_index_are_read_as_keys_of_the_table(self) -> None:
        put(BookItem("SHELF#1", "BOOK#0002", title="t", gsi1pk="LOANED", gsi1sk="2026"))
        assert list(pages(ShelfItem, "LOANED", index=ShelfItem.gsi1)) == [[book(2).key]]


class TestCounters:
    def test_a_record_counts_once_and_in_order(self) -> None:
        key = counter_key("SHELF#1", "books")

        def count(change: int, sequence_number: str) -> bool:
            return fold(
                ShelfCounter(*key), change=change, sequence_number=sequence_number, require_parent=lambda _: None
            )

        assert count(1, "100")
        assert count(1, "1000")
        assert not count(1, "1000")
        assert not count(1, "100")
        assert count(-1, "1001")
        counter = get(ShelfCounter, key)
        assert counter is not None
        assert counter.value == 1

    def test_none_is_made_for_an_owner_who_is_gone(self) -> None:
        key = counter_key("SHELF#1", "books")

        def require_shelf(tx: Transaction) -> None:
            tx.check(BookItem, Key("SHELF#1", "PARENT"), BookItem.pk.exists(), on_fail=NotFound("no such shelf"))

        assert not fold(ShelfCounter(*key), change=1, sequence_number="100", require_parent=require_shelf)
        assert get(ShelfCounter, key) is None


def test_repositories_go_on_after_a_reset_of_the_clients() -> None:
    put(book(1))
    aws.reset()
    assert get(BookItem, book(1).key) is not None

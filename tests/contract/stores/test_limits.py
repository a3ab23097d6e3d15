"""DynamoDB's limits: 400 KB an item, 1 MB a page, 100 items a transaction; and items whose time is over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pynamodb.attributes import BinaryAttribute

from karma.agents.domain import MAX_DESCRIPTION_CHARS, MAX_NAME_CHARS, MAX_PROMPT_CHARS, MAX_TAG_CHARS, MAX_TAGS
from karma.billing.arrival import Arrival
from karma.core.dynamo.access import get, put, query, update, upsert
from karma.core.dynamo.items import Item, TableMeta
from karma.core.dynamo.newest import newest
from karma.core.dynamo.transaction import MAX_ITEMS, Transaction
from karma.core.errors import PayloadTooLarge
from tests.contract.stores.rows import Rows
from tests.support.requests import asked
from tests.support.rows import DAY, NOW
from tests.support.wire import Wire, on

ITEM_BYTES = 400 * 1024
WIDE = "\U0001f4a1"
"""One character of four bytes in UTF-8."""


class BoxTable(Item):
    class Meta(TableMeta):
        logical = "devices"


class BoxItem(BoxTable, discriminator="box"):
    content = BinaryAttribute(legacy_encoding=False)


def box(number: int = 0, size: int = 1) -> BoxItem:
    return BoxItem("BOX", f"{number:04d}", content=b"x" * size, gsi1pk="BOXES", gsi1sk=f"{number:04d}")


def content_that_fills(total: int) -> int:
    """Return how many bytes of content give a box `total` bytes: DynamoDB counts names and values, a number by its
    digits."""
    rest = sum(map(len, ("pk", "BOX", "sk", "0000", "type", "box", "schema", "version", "content")))
    rest += sum(map(len, ("gsi1pk", "BOXES", "gsi1sk", "0000")))
    numbers = 2 * 2
    return total - rest - numbers


@pytest.mark.usefixtures("database")
class TestAnItem:
    def test_of_400_kb_is_stored(self) -> None:
        put(box(size=content_that_fills(ITEM_BYTES)))
        stored = get(BoxItem, box().key, consistent=True)
        assert stored is not None
        assert len(stored.content) == content_that_fills(ITEM_BYTES)

    def test_beyond_400_kb_is_refused_clearly(self) -> None:
        large = box(size=content_that_fills(ITEM_BYTES) + 1)
        with pytest.raises(PayloadTooLarge):
            put(large)
        tx = Transaction()
        tx.put(large)
        with pytest.raises(PayloadTooLarge):
            tx.commit()
        assert get(BoxItem, box().key, consistent=True) is None

    def test_does_not_grow_beyond_400_kb(self) -> None:
        put(box())
        grown = [BoxItem.content.set(b"x" * ITEM_BYTES)]
        with pytest.raises(PayloadTooLarge):
            update(box(), grown)
        with pytest.raises(PayloadTooLarge):
            upsert(box(), grown)
        tx = Transaction()
        tx.update(box(), grown)
        with pytest.raises(PayloadTooLarge):
            tx.commit()
        stored = get(BoxItem, box().key, consistent=True)
        assert stored is not None
        assert stored.content == b"x"


@pytest.mark.usefixtures("database")
class TestAPage:
    @pytest.fixture
    def eight(self) -> list[str]:
        """Make eight items of 2.4 MB together."""
        for number in range(8):
            put(box(number, 300_000))
        return [box(number).sk for number in range(8)]

    @pytest.mark.parametrize("indexed", [True, False])
    def test_goes_on_behind_a_megabyte(self, eight: list[str], *, indexed: bool) -> None:
        pk, index = ("BOXES", BoxTable.gsi1) if indexed else ("BOX", None)
        found: list[str] = []
        start = None
        wire = Wire()
        with on(wire):
            while True:
                page = query(BoxItem, pk, limit=100, start=start, index=index)
                found += [item.sk for item in page.items]
                start = page.last
                if start is None:
                    break
        assert found == eight
        assert len(wire.requests) > 1

    def test_by_limit_has_no_more_and_no_less(self, eight: list[str]) -> None:
        page = query(BoxItem, "BOX", limit=6)
        assert [item.sk for item in page.items] == eight[:6]
        assert page.last is not None
        rest = query(BoxItem, "BOX", limit=6, start=page.last)
        assert ([item.sk for item in rest.items], rest.last) == (eight[6:], None)

    def test_of_the_newest_breaks_off_in_the_middle(self, eight: list[str]) -> None:
        found: list[str] = []
        below = "~"
        for _ in range(8):
            page = newest(BoxItem, ["BOX"], limit=100, below=below)
            found += [item.sk for item in page.items]
            if page.below is None:
                break
            below = page.below
        assert found == eight[::-1]


@pytest.mark.usefixtures("database")
class TestATransaction:
    def test_of_a_hundred_items_is_written_whole(self) -> None:
        tx = Transaction()
        for number in range(MAX_ITEMS):
            tx.put(box(number))
        tx.commit()
        assert len(query(BoxItem, "BOX", limit=1000).items) == MAX_ITEMS

    def test_of_more_than_four_megabytes_is_refused_clearly(self) -> None:
        tx = Transaction()
        for number in range(11):
            tx.put(box(number, 390_000))
        with pytest.raises(PayloadTooLarge):
            tx.commit()
        assert query(BoxItem, "BOX", limit=1000).items == []


class TestWhatThereIsAtTheMost:
    def test_the_largest_agent_fits(self, rows: Rows) -> None:
        agent = rows.new_agent(name=WIDE * MAX_NAME_CHARS)
        spec = replace(
            agent.spec,
            description=WIDE * MAX_DESCRIPTION_CHARS,
            system_prompt=WIDE * MAX_PROMPT_CHARS,
            memory=WIDE * MAX_PROMPT_CHARS,
            knowledge=WIDE * MAX_PROMPT_CHARS,
            tags=tuple(f"{n}{WIDE * (MAX_TAG_CHARS - 1)}" for n in range(MAX_TAGS)),
        )
        agent = replace(agent, spec=spec)
        rows.agents.create(agent, request=asked("t"))
        assert rows.agents.get(agent.id) == agent
        assert len(rows.agents.page(tag=spec.tags[0], after="", limit=5)) == 1
        rows.agents.replace(agent, replace(agent, spec=replace(spec, name="x"), version=2))

    def test_the_longest_names_of_people_and_devices_fit(self, rows: Rows) -> None:
        rows.users.create_user(rows.person(name=WIDE * 255))
        device = rows.active(name=WIDE * 255)
        page = rows.devices.by_name(rows.ada.id, descending=False, limit=5)
        assert [each.device.id for each in page.devices] == [device.id]
        found = rows.devices.by_name(rows.ada.id, descending=False, limit=5, after=(device.name, device.id))
        assert found == ([], False)

    def test_the_longest_event_ids_fit(self, rows: Rows) -> None:
        arrival = Arrival("evt_" + "x" * 251, "invoice.paid", rows.arrival.body)
        rows.arrivals.store(arrival, received_at=NOW, due_at=NOW)
        assert [due.event_id for due in rows.inbox.due(NOW + DAY, limit=5)] == [arrival.id]

    @pytest.mark.parametrize("from_ms", [10**13 - 1, 10**13, 253_402_300_000_000])
    def test_telemetry_of_the_year_2286_is_asked_for(self, rows: Rows, from_ms: int) -> None:
        assert list(rows.telemetry.batches(rows.device.id, from_ms=from_ms, to_ms=from_ms + 1000)) == []

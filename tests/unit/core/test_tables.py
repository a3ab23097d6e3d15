"""A process is told once which deployed tables are behind the logical ones; who asks before is told what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core import aws
from karma.core.dynamo import tables
from karma.core.dynamo.items import Item, TableMeta, connection_of
from karma.core.dynamo.tables import TableUnbound, bind_names, bind_tables, deployed
from karma.core.settings import FunctionSettings


class JarTable(Item):
    class Meta(TableMeta):
        logical = "jars"


class JarItem(JarTable, discriminator="jar-of-tests"):
    pass


class LidItem(JarTable, discriminator="lid-of-tests"):
    pass


class Settings(FunctionSettings, kw_only=True):
    jars_table: str
    shelves_table: str = "shelves-of-the-stage"
    jars_queue_url: str = "https://queue.example.com/jars"


@pytest.fixture(autouse=True)
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_deployed", {})
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    aws.reset()


def test_a_function_s_settings_name_its_tables_and_nothing_else() -> None:
    bind_tables(Settings(stage="test", jars_table="jars-of-the-stage"))
    assert (deployed("jars"), deployed("shelves")) == ("jars-of-the-stage", "shelves-of-the-stage")
    with pytest.raises(TableUnbound, match="jars_queue_url_table"):
        deployed("jars_queue_url")


def test_a_table_that_no_setting_names_is_told_by_the_setting_that_is_missing() -> None:
    with pytest.raises(TableUnbound, match="the function's settings need jars_table"):
        connection_of(JarItem)


@given(st.lists(st.text("abc-", min_size=3, max_size=8), min_size=1, max_size=5))
def test_all_items_of_a_table_follow_the_name_that_was_told_last(names: list[str]) -> None:
    for name in names:
        bind_names({"jars": name})
        assert {connection_of(kind).table_name for kind in (JarItem, JarTable, LidItem)} == {name}
        assert connection_of(JarItem) is connection_of(LidItem)

"""Lists of devices as spreadsheets write them: what is taken, and which line and field is named where one is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import ValidationFailed
from karma.devices.device_csv import MAX_ROWS, DeviceTable, read_table

HEADER = "name,model,mac,serial_number"


def row(number: int = 1, **changes: str) -> str:
    given = {"name": f"Lamp {number}", "model": "EOS-3A", "mac": "AA:BB:CC:00:11:22", "serial_number": f"EOS-{number}"}
    return ",".join({**given, **changes}.values())


def said(text: str) -> list[tuple[int, str, str]]:
    return [(each.line, each.field, each.message) for each in read_table(text).faults]


def refusal(text: str) -> str:
    with pytest.raises(ValidationFailed) as refused:
        read_table(text)
    details: Any = refused.value.details
    entry = details[0]
    assert entry["field"] == "csv"
    return str(entry["message"])


WRITTEN = {
    "plain": f"{HEADER}\n{row()}\n",
    "a byte order mark and CRLF": f"\ufeff{HEADER}\r\n{row()}\r\n",
    "carriage returns alone": f"{HEADER}\r{row()}\r",
    "semicolons": f"{HEADER}\n{row()}\n".replace(",", ";"),
    "tabs": f"{HEADER}\n{row()}\n".replace(",", "\t"),
    "the first line of Excel": f"sep=;\r\n{HEADER}\r\n{row()}\r\n".replace(",", ";"),
    "quotes, and no end of the last line": '"name","model","mac","serial_number"\n"Lamp 1","EOS-3A",'
    '"AA:BB:CC:00:11:22","EOS-1"',
    "blank lines and cells without a name": f"\n{HEADER},,\n\n{row()},,\n,,,\n",
    "another case and blanks": f" Name ,MODEL,Mac,Serial Number\n{row(name='  Lamp 1  ')}\n",
    "another order": "mac,serial_number,name,model\nAA:BB:CC:00:11:22,EOS-1,Lamp 1,EOS-3A\n",
}


@pytest.mark.fault("F-31ab")
@pytest.mark.req("R-K-11", "R-K-13")
@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN.keys())
def test_however_it_is_written_it_holds_one_device(text: str) -> None:
    table = read_table(text)
    assert (table.total, list(table.faults)) == (1, [])
    [found] = table.rows
    assert found.device.model_dump(exclude_defaults=True) == {
        "name": "Lamp 1",
        "model": "EOS-3A",
        "mac": "AA:BB:CC:00:11:22",
        "serial_number": "EOS-1",
    }


@pytest.mark.fault("F-46b")
@pytest.mark.parametrize("between", ['"', "'", "\0", "=", "\\", ".", "\N{GRINNING FACE}", ";;", "a"], ids=ascii)
def test_what_separates_nothing_is_refused(between: str) -> None:
    told = refusal(f"sep={between}\n{HEADER}\n{row()}\n")
    assert told == "may name a comma, a semicolon or a tab behind `sep=`"


@pytest.mark.fault("F-46b")
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ('{"a":1,"a":2}', "a: stands twice in an object: of one name there is one member"),
        ('{"b":{"a":99999999999999999999}}', "b.a: a whole number beyond 64 bits"),
        ("{", "must be a JSON object"),
        ("[" * 70 + "]" * 70, "nested deeper than 64 levels"),
    ],
    ids=["a member twice", "a large number", "no JSON", "deep"],
)
def test_json_of_a_cell_is_read_as_that_of_a_request(cell: str, said: str) -> None:
    written = '"' + cell.replace('"', '""') + '"'
    [fault] = read_table(f"{HEADER},location\n{row()},{written}\n").faults
    assert (fault.line, fault.field) == (2, "location")
    assert fault.message.startswith(said)


def test_each_column_is_the_field_of_its_name() -> None:
    text = (
        f"{HEADER},ip,firmware_version,tags,location"
        + r"""
"Lamp; the ""big"" one",EOS-3A,AA:BB:CC:00:11:22,EOS-1,192.0.2.7,1.4,wet | north|wet,"{""room"": 3}"
=HYPERLINK(1),EOS-3A,AA:BB:CC:00:11:22,EOS-2,,,,
"two
lines",EOS-3A,AA:BB:CC:00:11:22,EOS-3
Lamp 4,EOS-3A,?,EOS-4
"""
    )
    table = read_table(text)
    first, second = (each.device for each in table.rows)
    assert (first.name, first.ip, first.firmware_version) == ('Lamp; the "big" one', "192.0.2.7", "1.4")
    assert (first.tags, first.location) == (["wet", "north"], {"room": 3})
    assert (second.name, second.ip, second.tags, second.location) == ("=HYPERLINK(1)", None, [], None)
    # A row of two lines is named by its first, and those behind it by theirs.
    assert [(each.line, each.field) for each in table.faults] == [(4, "name"), (6, "mac")]


@pytest.mark.fault("F-31ab")
@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (row(mac="xx"), "mac"),
        (row(model="EOS-9"), "model"),
        (row(serial_number='="00123"'.replace('"', "")), "serial_number"),
        (row(serial_number=""), "serial_number"),
        (row(name=""), "name"),
        (row() + ",999.0.0.1", "ip"),
        (row() + ",,{", "location"),
        (row() + ",,[]", "location"),
        (row() + ",,,more", ""),
    ],
    ids=["mac", "model", "formula", "no serial number", "no name", "ip", "no JSON", "no object", "a cell too many"],
)
def test_a_wrong_row_is_named_by_line_and_field_and_costs_no_other(bad: str, field: str) -> None:
    table = read_table(f"{HEADER},ip,location\n{row(7)}\n{bad}\n{row(8)}\n")
    assert [each.line for each in table.rows] == [2, 4]
    assert [(each.line, each.field) for each in table.faults] == [(3, field)]
    assert table.total == 3


@pytest.mark.fault("F-31ab")
def test_a_serial_number_that_stands_twice_makes_one_device() -> None:
    text = f"{HEADER}\n{row(1)}\n{row(2)}\n{row(1, name='Other')}\n"
    assert said(text) == [(4, "serial_number", "stands in line 2, too")]
    assert [each.device.name for each in read_table(f"{HEADER}\n{row(1)}\n{row(2, name='Lamp 1')}\n").rows] == [
        "Lamp 1",
        "Lamp 1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the column name is missing"),
        (f"{HEADER}\n", "has no rows below its header"),
        (f"{HEADER}\n\n,,,\n", "has no rows below its header"),
        (f"{row()}\n{row(2)}\n", "is no column of a device"),
        ("name,model,mac\na,b,c\n", "the column serial_number is missing"),
        (f"{HEADER},colour\n{row()},red\n", "colour is no column of a device"),
        (f"{HEADER},csr\n{row()},x\n", "csr is no column of a device"),
        (f"{HEADER},name\n{row()},x\n", "name stands twice in the header"),
        (f'{HEADER}\n{row()}\n"never ends,EOS-3A\n', "is no CSV from line 3 on"),
        (f"{HEADER}\n" + f"{row()}\n" * (MAX_ROWS + 1), f"at most {MAX_ROWS} rows"),
        (f'{HEADER}\n"{"x" * 140_000}"\n', "is no CSV from line 2 on"),
    ],
    ids=["empty", "header", "blank", "no header", "lacks", "unknown", "csr", "twice", "quote", "many", "huge"],
)
def test_a_list_that_cannot_be_read_is_refused_as_a_whole(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.fault("F-31ab")
@given(st.text(max_size=300))
def test_no_text_is_an_accident(text: str) -> None:
    for each in (text, f"{HEADER}\n{text}"):
        try:
            found = read_table(each)
        except ValidationFailed:
            continue
        assert isinstance(found, DeviceTable)
        assert len(found.rows) + len({fault.line for fault in found.faults}) == found.total

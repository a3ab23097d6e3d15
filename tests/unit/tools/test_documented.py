"""The page of the API names each argument of each of our tools, as rules for approvals need them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from karma.tools.server_tools import declared_tools
from karma.tools.toolbox import schema_of

PAGE = Path(__file__).parents[3] / "docs/api.md"
ROW = re.compile(r"^\| `(\w+)` \| (`[^|]+`) \| `(\w+:\w+)` \|$", re.MULTILINE)


def test_the_page_has_the_arguments_of_each_tool_and_what_it_needs() -> None:
    page = PAGE.read_text().partition("The arguments of our tools")[2].partition("\n\nLists filter")[0]
    written = {name: (re.findall(r"`(\w+\??)`", arguments), needs) for name, arguments, needs in ROW.findall(page)}
    declared = {}
    for tool in declared_tools():
        schema: Any = schema_of(tool.parameters)
        names = [name if name in schema["required"] else f"{name}?" for name in schema["properties"]]
        declared[tool.name] = (names, tool.permission)
    assert written == declared

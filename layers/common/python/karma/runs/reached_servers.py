"""Finds the servers of MCP that a request's answers lead to, whatever they are called by now, before one is spent.

the server answers, or its stored listing is young  the call is made, by the name that the tool had when it was asked
its list alone is broken                            the call is made by the listing that is stored
it cannot be asked                                  409 MCP_SERVER_AWAY: nothing is stored, the question stays open
it, or its tool, is gone; not the agent's any more  the model is told that the tool is unknown
another server has its name                         the call is not made, and the model is told so (gate.py)

A subagent goes on with the tools with which it began, so that only its server has to answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from karma.mcp.offering import McpTools, Offer, OfferedTool, with_tools_of_then
from karma.runs.askers import refuses
from karma.runs.interrupts import Interrupt
from karma.runs.ports import Runs
from karma.runs.requests import ResumeEntry
from karma.runs.resuming import Resumption
from karma.runs.setup import load_setup


async def offer_for(questions: Resumption, store: Runs, mcp: McpTools, offer: Offer, agent_id: str) -> Offer:
    """Return an offer with the tools that are called by a request's answers.

    Reads nothing more unless an answer leads to a server; then the setup of the run that asked, where the offer does
    not have the tool.

    Raises:
        McpServerAway: a server cannot be asked now.
        Upstream: the database did not answer.
    """
    asked = [
        each
        for call_id, each in questions.open.items()
        if each.reaches in offer.servers and _makes_call(questions.answers.get(call_id))
    ]
    if not asked:
        return offer
    offer = await mcp.reach(offer, {each.reaches for each in asked}, agent_id)
    lacking = [each for each in asked if each.inside is None and each.asked.name not in offer.names]
    if not lacking:
        return offer
    return with_tools_of_then(offer, await asyncio.to_thread(_then, store, lacking), agent_id)


def _makes_call(entry: ResumeEntry | None) -> bool:
    if entry is None or refuses(entry):
        return False
    return not (isinstance(entry.payload, dict) and entry.payload.get("outcome") == "happened")


def _then(store: Runs, asked: Sequence[Interrupt]) -> list[OfferedTool]:
    """Return the tools that questions are about, as the runs that asked had them. Blocks."""
    found: list[OfferedTool] = []
    for key in dict.fromkeys(each.key for each in asked):
        data = store.setup(key)
        if data is None:
            continue
        wanted = {(each.asked.name, each.reaches) for each in asked if each.key == key}
        found += [tool for tool in load_setup(data).mcp_tools if (tool.name, tool.server_id) in wanted]
    return found

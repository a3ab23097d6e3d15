"""Client of Karma's agents: runs stream as AG-UI events, over cut connections and lost processes, without a gap.

- `client.AgentClient` starts, joins and controls runs.
- `continuity.Continuity` makes one gapless stream of the several connections that a run may take.
- `interrupts` reads what a run asks, and answers it.
- `sse` reads server-sent events.
"""

"""Runs of agents: a user's message, the model's turns and the tools that it calls, recorded so that nothing is lost.

- **Run**: one answer to a thread. **Request**: the RunAgentInput of AG-UI that asks for one.
- **Log**: the events of a run, stored in segments; a client that lost its stream is given the rest from there.
- **Engine**: asks the model, calls tools, writes the log. **Watchdog**: ends runs whose process is gone.
"""

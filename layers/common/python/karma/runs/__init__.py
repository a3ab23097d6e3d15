"""Runs of agents: a user's message, the model's turns and the tools that it calls, recorded so that nothing is lost.

- **Run**: one answer to a thread. **Request**: the RunAgentInput of AG-UI that asks for one.
- **Log**: the events of a run, stored in segments; a client that lost its stream is given the rest from there.
- **Engine**: asks the model, calls tools, writes the log. **Checkpoint**: a point from which another process can go on.
- **Executor**: starts an engine for a run, new or lost. **Watchdog**: notices runs whose process is gone.
- **Control**: cancels, pauses and resumes runs for their owner. **Wish**: what it asks of a run's process.
"""

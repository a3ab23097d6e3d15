"""Runs of agents: a user's message, the model's turns and the tools that it calls, recorded so that nothing is lost.

- **Agent**: a prompt, a model and tools, kept in `catalogue`. **Tool**: what a model may call; some are the client's.
- **Thread**: a conversation, a tree of messages that only grows. **Run**: one answer to it.
- **Log**: the events of a run, stored in segments; a client that lost its stream is given the rest from there.
- **Engine**: asks the model, calls tools, writes the log. **Watchdog**: ends runs whose process is gone.
"""

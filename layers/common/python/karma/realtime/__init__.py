"""WebSockets and streams: who is connected, listens to what, and is told what (docs/adr/0059, docs/realtime.md).

- **Ticket**: lets one connection in, once. **Connection**: an open WebSocket of an account.
- **Channel**: what a connection subscribes to, `<kind>:<id>`, in a **space**: the account's whose object it is, or the
  project's that is shared (`karma/core/live.py`, by which contexts declare theirs).
- **State**: an object at a version, which is all that a message brings. **Log**: what grows by numbered pieces.
- **Head**: the number of the last message of a channel about a collection; a hole in the numbers is a **gap**.
- **Stream**: a connection of a client without WebSocket; its messages wait in its **inbox** (`streaming.py`, ADR 0067).
- **Router**: reads a table's stream, and queues push jobs (`routing.py`). **Pusher**: sends them (`pushing.py`).

Items of connections and subscriptions are the truth about who listens; a socket that is open without them hears
nothing. After a crash anywhere messages are sent again, and dropped by whoever holds their version. A mistake that
remains possible: a message that API Gateway took and lost is noticed with the channel's next one, or at a reconnect.
"""

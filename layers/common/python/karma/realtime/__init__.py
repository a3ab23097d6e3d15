"""WebSockets: who is connected and which channels they listen to.

- **Ticket**: lets one connection in, once. **Connection**: an open WebSocket of an account.
"""

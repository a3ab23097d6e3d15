"""Conversations: what a user and an agent have said, how a client's copy of it comes back in, and what a model reads.

- **Message**: text, media, calls of tools or the result of one. **Thread**: a tree of messages that only grows.
- **Branch**: the path from a message to the root; a user who goes back and asks again begins another one.
- **Attachment**: bytes too large for a message, kept beside it by their digest. **Medium**: what a model can look at.
- **Repair**: makes of what is stored a conversation that a model accepts.
"""

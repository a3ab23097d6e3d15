"""The WebSocket: connections, subscriptions, and answers to messages."""

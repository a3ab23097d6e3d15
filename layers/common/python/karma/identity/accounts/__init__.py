"""Accounts: registered, verified, changed, administered and deleted, with their mails and one-time links."""

"""Accounts: made, proven, changed, administered and deleted, and the mails and one-time links of all that."""

"""The audit log: security events of accounts, written in the transaction of what they tell about, and never changed.

- **Entry**: one event of an account, with who did it and from where; kept for 400 days.
- **Announcement**: the notice that an account is given of some entries, in the same transaction.
"""

"""Who somebody is and what they may do: accounts, sessions, API keys, logins by GitHub and Google, the audit log.

- **User**: an account. **Caller**: whoever sends a request, known by an access token or an API key.
- **Session**: what a login begins; access tokens are believed for minutes, refresh tokens are used once.
- **Audit entry**: what was done to an account, kept for its owner. Some entries are told as **notices**.
- **Cascade**: the deletion of an account, context by context, until nothing can write to it again.
"""

"""Identity: accounts, their sessions and keys, and the permissions of whoever calls.

- **User**: an account (`accounts`), with its addresses, its profile and its deletion. **Password**: see `passwords`.
- **Caller**: whoever sends a request, known by an access token (`sessions`) or an API key (`api_keys`).
- **Session**: what a login begins; access tokens are believed for minutes, refresh tokens are used once.
- **Provider**: GitHub or Google, through which somebody logs in (`oauth`).
- **Permission**: what a role, or a key's scope, allows (`permissions`). **Limit**: how often (`limits`).
- **Cascade**: the deletion of an account, context by context, until nothing can write to it again.
"""

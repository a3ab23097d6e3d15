"""Sessions: logins, refresh tokens, access tokens, and the caller of a request."""

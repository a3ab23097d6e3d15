"""Sessions: logins, refresh tokens, access tokens, and who the caller of a request is."""

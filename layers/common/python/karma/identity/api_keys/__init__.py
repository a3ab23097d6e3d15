"""API keys: what people's programs log in with."""

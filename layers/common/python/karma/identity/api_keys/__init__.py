"""API keys of people's programs."""

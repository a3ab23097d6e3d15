"""Agents: a prompt, a model and tools under a name, as somebody configured them; runs execute them.

- **Agent**: such a configuration, with a version; one is built in. **Catalogue**: all agents, by name and by tag.
"""

"""Avatars: agents as somebody offers them to others, with a face, a role and a price.

- **Avatar**: an offer of its creator, which counts among what must not lose its owner.
"""

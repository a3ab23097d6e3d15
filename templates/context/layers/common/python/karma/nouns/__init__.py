"""Nouns: what a person keeps under a name, with a note.

- **Noun**: belongs to one account, and goes with it.
"""

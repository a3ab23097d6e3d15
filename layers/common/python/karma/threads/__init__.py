"""Threads as their owners see them: a list with the newest activity first, found by their titles.

- **Head**: a thread without its messages. **Title**: its first words, until somebody gives it another one.
"""

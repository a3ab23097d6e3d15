"""Passwords: which are taken, how they are hashed, and how one is replaced."""

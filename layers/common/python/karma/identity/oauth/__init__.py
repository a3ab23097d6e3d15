"""Logins through GitHub and Google, and the links between their accounts and ours."""

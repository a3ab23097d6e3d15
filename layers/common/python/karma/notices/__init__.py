"""Notices that an account sees in the application, such as that its password was changed.

- **Notice**: one thing that happened, unread until it is read; kept for 90 days.
"""

"""Function that makes the segments of large accounts: indexes in files, by which their objects are searched.

- **Segment**: an index of an account's rows at one moment. **Builder**: makes it (`karma/search/segments/building.py`).
"""

"""Function that opens the files of others: thumbnails and texts, each made in a process that its file cannot leave.

- **Preview**: what is made of a file (`karma/files/previews.py`). **Child**: the process that makes one, and ends.
"""

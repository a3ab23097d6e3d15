"""Segments: indexes in files, for accounts with more objects than an index in memory is built of at each start.

- **Segment**: the rows of an account as they were at one moment, in an object of S3 that is written once. A process
  that is asked takes it to its disk and keeps it open.
- **Journal**: items of the table `search` that say which rows an account's changes wrote, by their moments. An account
  has one from the moment at which its first segment is begun.
- **Tail**: what the journal says since the segment's moment. Rows in it are looked through in memory, and hide their
  rows in the segment; so nothing is found by what it was, and a process that has read the head has read all.
- **Builder**: makes a segment when a query finds that there should be one, or another one (`building.py`).

The account's **head** names the segment that counts. It is put there on condition that the one before is still named,
and that there is a head: of two builders one wins, and a deleted account gets none. What a builder that died has left
in S3 goes with the next one, or with the account. Where a segment is missing or cannot be read, an account's newest
objects are looked through as if there were none, which the answer says, and another one is built.
"""

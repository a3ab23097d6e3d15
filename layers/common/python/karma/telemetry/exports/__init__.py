"""Exports of telemetry: tables of any length that are written in the background (docs/adr/0060).

- **Export**: what is written, for whom, and how far that has come. Its item is the truth; its **table** is one object.
- **Attempt**: some seconds in which a worker writes on. It **holds** the export until a moment; a worker that finds it
  held leaves it alone, and one that finds the moment over takes it, by the version that it read.
- **Checkpoint**: an object with all that a later attempt needs besides the item: the parts that were stored, what the
  writer of the table remembers, and the bytes that are fewer than a part. The item names the one that counts.

        queued ──> running ──> succeeded     its table is there, whole, and stays for a day
           │          ├──────> failed        it has more rows than the plan allows, a device is gone, or nothing helps
           └──────────┴──────> cancelled     nothing is written any more

Promises after a death: what was written up to the last checkpoint is written once, and the next attempt goes on from
there. A worker that lost its export cannot harm it: it stores no part under a number that another may have used, since
each attempt leaves one number out; its checkpoint and its table have names of their own, and no item names them.
A table is linked to by the item that its transaction wrote, so there are never two.

Mistakes that remain possible: objects of lost workers stay until the bucket removes them a day later, and the parts of
an upload that nobody ended for two.
"""

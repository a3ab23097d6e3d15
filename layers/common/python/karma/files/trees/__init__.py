"""Moves and deletions of directories with all that is in them, as work in the background (docs/adr/0074).

- **Tree change**: one such piece of work. Its item is the truth about it; its **mark** (karma/files/marks.py) is what
  readers and writers of the device's files know of it. Both are written in one transaction.
- **Worker**: takes a tree change for some seconds, and **holds** it until a moment. Who finds it held leaves it alone.
- **Survey**: the worker's look at the whole tree, which counts it, and tells whether its target can hold it.

        queued ──> running ──> succeeded     everything is moved, or deleted
           │          ├──────> failed        a move only, before it has begun: a path would be too long or too deep
           └──────────┴──────> cancelled     a move only, before it has begun

    move       the target's name is taken with the request; the survey ends in one transaction, in which the directory
               gets its new path: from there on readers see the whole tree at the target
    deletion   has begun with the request: from there on readers see nothing of the tree

Promises after a death, and beside another worker: the entries with names are a tree at each moment, each one has its
name in exactly one place, and each file's bytes are given back once, since each transaction requires the entries as
they were read. What was done is not done again: it is not found in the source any more. Work that has begun always
goes on; nobody ends it but its device's deletion, which takes it along.

Mistakes that remain possible: the last tombstones of a worker that died are removed by the sweep of files, some
minutes later than the work is over; a search finds entries by their old path until the worker has come to them.
"""

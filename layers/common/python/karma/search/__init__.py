"""Search over what an account has, by rows that the tables' streams keep and an index in memory (docs/adr/0058).

- **Row**: an object as search knows it: type, name, codes, tags, the beginning of its text, status. It belongs to one
  account, whose partition it is in, so nobody's query can find another's. The object itself is the truth.
- **Source**: a context's declaration of the rows that its items have (`karma/core/searchables.py`).
- **Feed**: writes the rows that follow from a batch of a stream. A row has the sequence number of the record that it is
  from, and an older one never replaces it; a removed object leaves a **tombstone** as long as records may come late.
- **Head**: one item an account, counted up in the transaction of each change of its rows. A process keeps the **index**
  that it has built as long as the head, read consistently, has not moved.
- **Query**: what is asked, in one or two **readings**: `online devices` means devices that are online first, and then
  what has both words. **Hit**: a row that matches, with `why` it stands where it does.

After a crash anywhere: rows and head are written together, records come again, and what they bring twice changes
nothing. Rows are some hundred milliseconds late, and once stored they are found by the next query of any process. A hit
may be of an object that has just gone; whoever opens it is told 404.
"""

"""Telemetry at scale: rollups of raw samples, and what is read, exported and archived of them (docs/adr/0060).

- **Raw**: the batches of samples that `karma.devices` stores as a device sent them. They alone are the truth.
- **Rollup**: a metric's samples of one hour by minutes, or of one day by hours: count, least, greatest, sum and last
  value, and a **sketch**, from which percentiles are read. Rollups of hours are computed from raw, those of days from
  hours; each is written whole, never added to, so computing one again repairs whatever was wrong with it.
- **Dirty bucket**: an hour or a day whose rollups are not what its samples say any more. Its item, the **mark**, has a
  token that each later change replaces. Who computes a bucket again writes its rollups and removes the mark in one
  transaction, on the token that it read before it read raw: a sample that came meanwhile keeps the mark.
- **Directory**: the metrics of a device that are rolled up, each with a number. **Closed**, it says that the device is
  deleted, and nothing can be written for it any more.

- **Archived day**: the raw batches of a day in one object, noted in the table; from there they are read by
  whoever reads raw (`archives.py`, `archiving.py`).

An hour is dirty from the first sample that came, by the stream of the table (`marking.py`), so ingest has no part in
it. A sweep sends what is dirty and due to a queue (`sweeps.py`); a worker computes it (`rebuilding.py`), and marks the
day behind an hour. Readers take dirty and open hours from raw (`buckets.py`).

Mistakes that remain possible: a sample that came late is missing in the rollup of its hour for the seconds until the
stream has told of it; and longer where the stream's consumer failed for a day.
"""

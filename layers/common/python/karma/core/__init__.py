"""The core, which knows nothing of devices, agents or money: time, ids, errors, settings, DynamoDB, streams.

- **Error**: what a caller is told, with a code and a status (`errors`); a storage fault becomes one in `faults`.
- **Item** and **Transaction**: one row of DynamoDB, and one write of many (`dynamo`).
- **Settings**: the environment of one function, read once (`settings`); `dynamo.tables` is told the tables from them.
"""

"""Tasks and their subtasks: work that is planned, and how far it has come.

- **Task**: what is to be done, with a status of its own. **Subtask**: a step of it, which may wait for others.
"""

"""Tools that a model may call on the server, with the rights of the run's caller.

- **Tool**: a function with a name, a description and typed parameters. **Toolbox**: the tools of one run.
- **Device tools**: those that find, read and control the caller's devices.
"""

"""Components that are configured while the system runs, such as which models there are, with their history.

- **Component**: a named configuration with a version. **Current configuration**: what holds now, cached for seconds.
"""

"""Figures of runs by the hour: how many, how they ended, how long they took, what they used and cost.

- **Series**: the runs that are counted together: an account's of an agent, an agent's of all accounts, or all.
- **Figures**: sums over the runs of a series that ended in an hour. **Mark**: what of a run has been counted.
"""

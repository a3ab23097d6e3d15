"""Projects that people work on together: who is a member, in which role, and how somebody becomes one.

- **Project**: what is shared. **Membership**: a person's role in it; the first **owner** pays for its seats.
- **Invitation**: the question whether somebody wants a role; nobody becomes a member without saying yes.
"""

"""Billing: subscriptions as Stripe tells of them, plans, and how much of a plan an account has taken.

- **Event**: what Stripe posts. **Inbox**: where it waits. **Projector**: finds what a user has by asking Stripe.
- **Customer link**: whose Stripe customer is whose account. **Plan**: limits and a price.
- **Reservation**: a part of a limit, taken in the transaction of the work that needs it. **Seat**: a person in a plan.
"""

"""Mail that is sent because of something that was stored: written in that transaction, delivered by a worker.

- **Mail**: one letter of a kind, without its words. **Outbox**: mails that were written and not yet sent.
- **Post office**: puts written mails into the queue. **MailWorker**: the worker that words and sends one.
"""

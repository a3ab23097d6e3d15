"""Webhooks of an account: addresses of its own that are told, signed, what happens to what it has.

- **Webhook**: an https address with the types of events that it is told. It signs by a secret `whsec_…`, which is shown
  once and kept sealed; after a rotation the former ones sign as well, for a day.
- **Default webhook**: the one without an address, `default`; it signs what goes to the addresses that runs name.
- **Event**: something that happened, such as a run's end. Contexts declare types in `happenings.py`
  (karma/core/happenings.py), and the fan-out makes a delivery of each event for each webhook that wants it.
- **Delivery**: one event for one webhook, and the truth about both: what is sent, every attempt, and whether it is
  done. Its id is the event's, and is sent as `webhook-id`: a receiver that has seen it has had the event.

        pending ──> succeeded   the address answered 2xx
                ├─> failed      all attempts failed, or it was four days old
                └─> cancelled   the webhook was disabled or deleted first
        each of them ──> pending   by `redeliver`

- **Mark**: says when a pending delivery is due; it exists exactly as long as the delivery is pending.
- **Lane**: deliveries that are sent by one worker at a time, and rest together: a webhook's, or those of the default
  one whose hosts fall into the same of sixteen parts.
- **Agenda**: one item a lane: who sends now (a lease), until when it rests, and when a worker has to look at it again.
  A pending delivery is written together with the agenda's next look, so none is forgotten.
- **Worker**: has a lane's lease, and sends what is due in it, for half a minute at a time. A receiver that hangs keeps
  one worker busy, those of an account three, and no other account waits.

After a crash anywhere: deliveries exist once (their key is the event's), are sent at least once, and a delivery that
was sent but not noted is sent again with the same id. Order is not promised.
"""

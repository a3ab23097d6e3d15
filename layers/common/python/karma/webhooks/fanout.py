"""Makes the deliveries of what happened: one for each webhook that wants to be told, and for the address of a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound
from karma.core.happenings import Happening
from karma.core.observability import count
from karma.identity.transactional import AccountGone
from karma.webhooks.domain import DEFAULT, Delivery, delivery_of
from karma.webhooks.looks import send_look
from karma.webhooks.ports import Deliveries, LookQueue, Webhooks


class Fanout:
    """Fans events out to webhooks, and to the addresses that they name; the same events may be given again."""

    def __init__(self, webhooks: Webhooks, deliveries: Deliveries, queue: LookQueue, clock: Clock) -> None:
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._queue = queue
        self._clock = clock

    def tell(self, happenings: Sequence[Happening]) -> int:
        """Store what is to be delivered, have workers look, and return the number of new deliveries.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; all may be given again.
        """
        made, now = 0, self._clock.now()
        for user_id, told in groupby(sorted(happenings, key=lambda each: each.user_id), key=lambda each: each.user_id):
            events = list(told)
            webhooks = self._webhooks.all(user_id)
            wanted = [(event, each.id) for each in webhooks for event in events if each.wants(event.type)]
            wanted += [(event, DEFAULT) for event in events if event.address]
            deliveries = [delivery_of(event, webhook_id, now=now) for event, webhook_id in wanted]
            made += sum(map(self._is_made, deliveries))
            # Also for those that were there: whoever made them may have died before this.
            for lane in dict.fromkeys(delivery.lane for delivery in deliveries):
                send_look(self._queue, user_id, lane, at=now, now=now)
        if made:
            count("WebhookDeliveryMade", made)
        return made

    def _is_made(self, delivery: Delivery) -> bool:
        try:
            self._deliveries.add(delivery)
        except AlreadyExists:
            return False  # told before: streams repeat themselves
        except (NotFound, AccountGone):
            return False  # deleted or disabled since it was read, or its account was
        return True

"""Use cases of transfers: offer a device, list, withdraw, accept, decline.

Nobody becomes a device's owner who did not accept it, and nobody loses one who did not offer it with a fresh proof. An
offer by address is to whoever has proven the address; the giver is not told whether anybody has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent, Source
from karma.billing.allowances import Allowance, Metric
from karma.core.clock import Clock, iso
from karma.core.errors import AlreadyExists, NotFound, Upstream
from karma.core.ids import DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.ratelimit import Buckets
from karma.core.repeat import repeat
from karma.devices.domain import CurrentDevice, Device, DeviceState
from karma.devices.ports import Accounts, Proof, Shadows
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.transfers import TransferRepository, declined_before
from karma.devices.transfer import (
    OFFER_TTL,
    DeviceOffer,
    OfferDeclined,
    ReceivedOffer,
    TransferChanged,
    may_give,
    no_offer,
    taken_over,
    transfer_changed,
)
from karma.identity.accounts import emails
from karma.identity.domain import Caller
from karma.identity.limits import INVITATIONS, MAIL_INVITATION, refused
from karma.identity.transactional import AccountGone
from karma.mail.domain import Mail, MailKind
from karma.mail.service import OutboxRelay


class TransferService:
    """Use cases of transfers."""

    def __init__(
        self,
        store: TransferRepository,
        devices: DeviceRepository,
        accounts: Accounts,
        *,
        proof: Proof,
        allowance_of: Callable[[UserId], Allowance],
        outbox_relay: OutboxRelay,
        buckets: Buckets,
        shadows: Shadows,
        clock: Clock,
    ) -> None:
        """Build the service.

        `buckets` limit offers by giver, together with invitations, and what tells of them by receiver.
        """
        self._store = store
        self._devices = devices
        self._accounts = accounts
        self._proof = proof
        self._allowance_of = allowance_of
        self._outbox_relay = outbox_relay
        self._buckets = buckets
        self._shadows = shadows
        self._clock = clock

    # Giving

    def offer(
        self, caller: Caller, device_id: str, receiver_id: str, *, current_password: str | None, source: Source
    ) -> DeviceOffer:
        """Offer a device to an account; a repeat replaces the offer, whoever it was to.

        Raises:
            NotFound: the device is not the caller's, or the account does not exist.
            Forbidden: the caller is an API key, or gives no fresh proof, or a wrong one.
            AlreadyExists: the caller is the receiver.
            OfferDeclined: they declined this device, and that offer's time is not over.
            RateLimited: the caller has asked too many people today, or too many passwords were wrong.
        """
        device = self._enter(caller, device_id, current_password)
        if not is_id(receiver_id):
            raise AccountGone
        receiver = UserId(receiver_id)
        return self._ask(caller, device, user_id=receiver, email=None, known=receiver, source=source)

    def offer_by_email(
        self, caller: Caller, device_id: str, email: str, *, current_password: str | None, source: Source
    ) -> None:
        """Offer a device to whoever proves an address; the caller does not learn whether an account has it.

        The caller's own address must be verified: otherwise made-up accounts have mail sent to strangers.

        Raises:
            Forbidden: EMAIL_NOT_VERIFIED, or as `offer`.
            NotFound: the device is not the caller's.
            AlreadyExists: the address is the caller's own.
            ValidationFailed: the text is no e-mail address that mail is sent to.
            RateLimited: as `offer`.
        """
        caller.require_verified()
        address = emails.mailable(email)
        device = self._enter(caller, device_id, current_password)
        owner = self._accounts.find_by_email(address)
        known = owner.id if owner is not None and owner.email_verified else None
        try:
            self._ask(caller, device, user_id=None, email=address, known=known, source=source)
        except OfferDeclined:
            logger.info("device.not_asked_again", device_id=device.id)

    def _enter(self, caller: Caller, device_id: str, current_password: str | None) -> Device:
        caller.require_person()
        device = self._owned(caller.user_id, device_id)
        self._proof(caller, current_password)
        return device

    def _owned(self, user_id: UserId, device_id: str) -> Device:
        row = self._devices.row(user_id, DeviceId(device_id), consistent=True) if is_id(device_id) else None
        if row is None or row.state is not DeviceState.ACTIVE:
            raise NotFound(f"Device {device_id} not found")
        return row

    def _ask(
        self,
        caller: Caller,
        device: Device,
        *,
        user_id: UserId | None,
        email: str | None,
        known: UserId | None,
        source: Source,
    ) -> DeviceOffer:
        now, device_id = self._clock.now(), device.id
        if known == caller.user_id:
            raise AlreadyExists("The device is yours already")
        offer = DeviceOffer(
            device_id=device_id,
            offered_by=caller.user_id,
            user_id=user_id,
            email=email,
            offered_at=now,
            expires_at=now + OFFER_TTL,
        )
        standing = self._store.offer(device_id)
        if standing is not None and standing.receiver == offer.receiver and standing.is_refused(now):
            raise declined_before()
        decision = self._buckets.take(INVITATIONS, caller.user_id, now=now)
        if not decision.allowed:
            raise refused(decision)
        me = caller.user_id
        offered = AuditEvent.DEVICE_OFFERED
        entries = [_entry(offered, me, now, by=me, device_id=device_id, source=source, receiver=user_id)]
        mails: list[Mail] = []
        if self._buckets.take(MAIL_INVITATION, offer.receiver, now=now).allowed:
            mails.append(Mail(kind=MailKind.DEVICE_OFFERED, user_id=user_id, to=email, created_at=now))
            if known is not None:
                entries.append(_entry(AuditEvent.DEVICE_OFFER_RECEIVED, known, now, by=me, device_id=device_id))
        else:  # they were told often enough; the offer stands in their list all the same
            count("MailDropped", limit=MAIL_INVITATION.name)
        self._store.put_offer(offer, made_with=caller.credential, known=known, entries=entries, mails=mails)
        self._outbox_relay.dispatch(mails)
        count("DeviceOffered")
        logger.info("device.offered", device_id=device_id)
        return offer

    def given(self, user_id: UserId, device_id: str) -> DeviceOffer:
        """Return the offer of a device whose time is not over, for its owner.

        Raises:
            NotFound: the device is not the caller's, or is offered to nobody.
        """
        offer = self._store.offer(self._owned(user_id, device_id).id)
        if offer is None or self._clock.now() >= offer.expires_at:
            raise no_offer()
        return offer

    def withdraw(self, user_id: UserId, device_id: str) -> None:
        """Withdraw the offer of a device.

        Raises:
            NotFound: the device is not the caller's, or is offered to nobody: it may have been accepted meanwhile.
        """

        def once() -> None:
            if not self._store.withdraw(self.given(user_id, device_id)):
                raise transfer_changed()

        repeat(once, on=(TransferChanged,))
        logger.info("device.offer_withdrawn", device_id=device_id)

    # Receiving

    def received(self, user_id: UserId) -> Sequence[ReceivedOffer]:
        """List the offers that an account can accept, by its id and its address once that is proven; newest first."""
        now = self._clock.now()
        open_ = [each for each in self._store.offers_to(self._names_of(user_id)) if each.is_open(now)]
        givers = {giver: self._accounts.read_user(giver) for giver in dict.fromkeys(each.offered_by for each in open_)}
        valid = [each for each in open_ if may_give(givers[each.offered_by], each) and each.offered_by != user_id]
        devices = self._store.offered(valid)
        return [
            ReceivedOffer(offer=each, name=device.name, model=device.model, serial_number=device.serial_number)
            for each in valid
            if (device := devices.get(each.device_id)) is not None
        ]

    def accept(self, user_id: UserId, device_id: str, *, source: Source) -> CurrentDevice:
        """Take over a device that is offered to the caller; a repeat returns it as it is by then.

        It has another id than the giver knew. Its certificate stays: it goes on connected.

        Raises:
            NotFound: there is no such offer to the caller that can be accepted.
            QuotaExceeded: the caller's plan has no room for another device; the offer stays.
            Conflict: ROTATION_UNDER_WAY, the device's certificate is being changed; the offer stays.
            AccountGone: the caller's account is deleted.
        """
        if not is_id(device_id):
            raise no_offer()
        return repeat(lambda: self._accept(user_id, DeviceId(device_id), source), on=(TransferChanged,))

    def _accept(self, user_id: UserId, device_id: DeviceId, source: Source) -> CurrentDevice:
        now, offer = self._clock.now(), self._store.offer(device_id)
        if offer is None or not self._can_answer(user_id, offer) or not offer.is_open(now):
            return self._taken(user_id, device_id)
        before = self._store.stored(offer.offered_by, device_id)
        if before is None or not may_give(self._accounts.read_user(offer.offered_by), offer):
            raise no_offer()
        after = taken_over(before.current, by=user_id, as_id=DeviceId(new_id()), at=iso(now))
        given, mine = AuditEvent.DEVICE_GIVEN, after.device.id
        entries = [
            _entry(given, offer.offered_by, now, by=user_id, device_id=device_id, receiver=user_id),
            _entry(AuditEvent.DEVICE_RECEIVED, user_id, now, by=user_id, device_id=mine, source=source),
        ]
        reservation = self._allowance_of(user_id).reserve(Metric.DEVICES)
        self._store.move(offer, before, after, reservation=reservation, entries=entries, now=now)
        try:
            self._shadows.delete(after.device.serial_number)
        except Upstream:  # nobody is shown what is left, and the receiver's first change removes it
            logger.warning("device.settings_left", device_id=mine)
        count("DeviceTransferred")
        logger.info("device.transferred", device_id=device_id, became=mine)
        return self._mine(user_id, mine)

    def _taken(self, user_id: UserId, device_id: DeviceId) -> CurrentDevice:
        mine = self._store.taken(user_id, device_id, now=self._clock.now())
        if mine is None:
            raise no_offer()
        return self._mine(user_id, mine)

    def _mine(self, user_id: UserId, device_id: DeviceId) -> CurrentDevice:
        found = self._devices.current(user_id, device_id, consistent=True)
        if found is None:
            raise NotFound(f"Device {device_id} not found")
        return found

    def decline(self, user_id: UserId, device_id: str, *, source: Source) -> None:
        """Decline an offer; the giver cannot offer the device to the caller again until its time is over.

        Raises:
            NotFound: no offer to the caller is open, and the caller has declined none whose time is not over.
        """
        now = self._clock.now()
        offer = self._store.offer(DeviceId(device_id)) if is_id(device_id) else None
        if offer is not None and self._can_answer(user_id, offer) and offer.is_open(now):
            declined = AuditEvent.DEVICE_OFFER_DECLINED
            entry = _entry(declined, user_id, now, by=user_id, device_id=offer.device_id, source=source)
            if self._store.decline(offer, by=user_id, at=now, entry=entry):
                logger.info("device.offer_declined", device_id=offer.device_id)
                return
        until = self._store.refused_until(DeviceId(device_id), user_id) if is_id(device_id) else None
        if until is None or now >= until:
            raise no_offer()

    def _can_answer(self, user_id: UserId, offer: DeviceOffer) -> bool:
        return offer.offered_by != user_id and offer.is_to(self._names_of(user_id))

    def _names_of(self, user_id: UserId) -> Sequence[str]:
        """Return how offers name an account: by its id, and by the SHA-256 of its address once that is proven."""
        user = self._accounts.read_user(user_id)
        proven = user is not None and user.email_verified
        return (user_id, *([emails.digest(user.email)] if user is not None and proven else []))


def _entry(
    event: AuditEvent,
    user_id: UserId,
    at: datetime,
    *,
    by: UserId,
    device_id: DeviceId,
    source: Source = NOWHERE,
    receiver: UserId | None = None,
) -> AuditEntry:
    """Return an entry of an account's log; `receiver` only where its owner may know whose address it was."""
    details = {"device_id": str(device_id), **({"receiver_id": receiver} if receiver else {})}
    return AuditEntry(user_id=user_id, event=event, at=at, actor_id=by, source=source, details=details)

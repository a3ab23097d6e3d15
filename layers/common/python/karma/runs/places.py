"""Places of accounts among the processes that execute runs without a client.

All accounts share these processes (`EXECUTION` of infra/stacks/app.py). So that none holds them all, each has a few
places (docs/adr/0049), and a process executes a run in one of them:

    free place         the process takes it, and gives it back when it leaves the run
    none               the process notes that the run waits, and leaves it. It holds neither a process nor a message:
                       whoever gives a place back asks for the execution of the run that was started first
    wake-up is lost    the watchdog asks, ever more rarely; a run that waits for a place is not given up as lost
    process dies       its place is the run's: whoever takes the run over has it, also where the process had not claimed
                       the run yet. Who ends the run instead frees it (holdings.py)

Titles and expired questions have two places of their own, and their own queue and processes: runs hold none of them up.
Such a message that gets no place comes again later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from karma.core.clock import Clock, epoch_ms
from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.core.leases import Claimant, Lease, Pool, PoolIsFull
from karma.core.observability import count, logger
from karma.runs.domain import Run, RunKey
from karma.runs.holdings import run_of

if TYPE_CHECKING:
    from karma.runs.ports import Executions

_LONGEST: Final = timedelta(minutes=15)
"""No process lives longer."""
PLACES: Final[Mapping[str, int]] = {"free": 2, "pro": 4, "team": 8, "enterprise": 10}
"""Runs of an account that are executed at once without a client, by its plan."""
LEAST: Final = Pool("executions", min(PLACES.values()), _LONGEST, max(PLACES.values()))
"""Places that every account has; its plan is read when it needs more."""
SHORT_WORK: Final = Pool("short_executions", 2, timedelta(minutes=2))
"""Titles and expired questions of one account: each is one call of a model at the most, of 30 seconds."""


class NoPlace(Exception):
    """The account has as many executions as it may: the run waits."""


class PlaceLeases(Protocol):
    """Leases whose claimants wait: karma.core.dynamo.leases in the table `agents`."""

    def take(  # noqa: D102
        self, pool: Pool, holder: str, *, now: datetime, until: datetime, claimant: Claimant | None = None
    ) -> Lease: ...
    def wait(self, pool: Pool, holder: str, claimant: Claimant, *, now: datetime) -> bool: ...  # noqa: D102
    def give_back(self, lease: Lease) -> None: ...  # noqa: D102
    def put_back(self, lease: Lease) -> None: ...  # noqa: D102
    def hand_on(self, lease: Lease, *, now: datetime) -> list[str]: ...  # noqa: D102
    def pass_over(self, pool: Pool, holder: str, name: str, *, now: datetime) -> list[str]: ...  # noqa: D102


class Places:
    """Gives runs a place while a process executes them."""

    def __init__(
        self,
        leases: PlaceLeases,
        clock: Clock,
        *,
        plan_of: Callable[[UserId], str],
        executions: Executions,
        workers: int,
    ) -> None:
        """Build it.

        Args:
            leases: what stores them.
            clock: the process's clock.
            plan_of: tells the name of an account's plan.
            executions: the queue by which runs that wait are woken.
            workers: processes that all accounts share; nobody has as many as half of them, if there are more than two.
        """
        self._leases = leases
        self._clock = clock
        self._plan_of = plan_of
        self._executions = executions
        self._most = max(1, (workers - 1) // 2)

    def take(self, run: Run, *, epoch: int, until: datetime | None) -> Lease:
        """Take a place for a run that a process executes under an epoch, and no longer than `until`.

        Raises:
            NoPlace: the account has none; the run was noted, and is woken.
            Upstream: the database could not be reached.
        """
        me = Claimant(f"{epoch_ms(run.created_at):013d}.{run.key.run_id}", epoch)
        pool = self._pool(LEAST.places)
        for _ in range(3):  # twice a place may have been given back, and taken by another run
            now = self._clock.now()
            end = until or now + pool.longest
            try:
                return self._leases.take(pool, run.key.user_id, now=now, until=end, claimant=me)
            except PoolIsFull:
                wider = self._pool(PLACES[self._plan_of(run.key.user_id)])
                if wider.places > pool.places:
                    pool = wider
                elif not self._leases.wait(pool, run.key.user_id, me, now=now):
                    break
        count("ExecutionWaits")
        raise NoPlace

    def leave(self, lease: Lease) -> None:
        """Give a place back, and wake whose turn it is. Raises nothing: the place is free when its time is over."""
        try:
            self._wake(UserId(lease.holder), self._leases.hand_on(lease, now=self._clock.now()))
        except Upstream as exc:
            logger.warning("run.place_not_given_back", user_id=lease.holder, code=exc.code)

    def give_way(self, lease: Lease) -> None:
        """Let the process of a run have its place again that goes on with it, after this one wanted to take it over.

        Raises:
            Upstream: the database could not be reached.
        """
        self._leases.put_back(lease)

    def pass_over(self, key: RunKey, waited_as: str) -> None:
        """Wake the next one instead of a run that was woken and is not to be executed any more.

        Raises:
            Upstream: the database or the queue could not be reached.
        """
        pool = self._pool(LEAST.places)
        self._wake(key.user_id, self._leases.pass_over(pool, key.user_id, waited_as, now=self._clock.now()))

    @contextmanager
    def short_work(self, user_id: UserId) -> Iterator[None]:
        """Hold a place of an account's short work while the block runs.

        Raises:
            NoPlace: the account has none.
            Upstream: the database could not be reached.
        """
        now = self._clock.now()
        try:
            pool = self._pool(SHORT_WORK.places, like=SHORT_WORK)
            lease = self._leases.take(pool, user_id, now=now, until=now + pool.longest)
        except PoolIsFull:
            raise NoPlace from None
        try:
            yield
        finally:
            try:
                self._leases.give_back(lease)
            except Upstream as exc:
                logger.warning("run.place_not_given_back", user_id=user_id, code=exc.code)

    def _wake(self, user_id: UserId, names: list[str]) -> None:
        for name in names:
            self._executions.wake(RunKey(user_id, run_of(name)), name)

    def _pool(self, places: int, *, like: Pool = LEAST) -> Pool:
        return Pool(like.name, min(places, self._most), like.longest, like.widest)

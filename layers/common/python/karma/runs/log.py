"""The log of a run while it executes: one writer commits all events that are sent, in order.

- Structural events are committed, then sent.
- Deltas, and the start and end of text, are sent at once and committed at most a second later.
- `id: n` is sent only when the client has exactly the segments up to n.
- Each segment renews the lease, an empty one when the run is silent.
- Twice a second the log reads whether another process wants the run to end or to pause: others never write to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

from karma.conversations.domain import History, ThreadKey
from karma.conversations.state import EMPTY, State
from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.ids import AgentId
from karma.runs.domain import (
    CLIENT_LEFT_REASON,
    LEASE,
    NOBODYS,
    OwnershipLost,
    Progress,
    RunEnd,
    RunKey,
    RunPause,
    Segment,
    checkpoint_at,
)
from karma.runs.events import (
    DeltaPrefix,
    Event,
    OpenItems,
    encode_delta,
    frame,
    frames,
    parse,
    position,
    state_after,
    state_changed,
)
from karma.runs.opening import Link
from karma.runs.ports import DelegatedWork, Runs, Sink
from karma.runs.replay import snapshot
from karma.runs.waiting import Waiting, batches_of
from karma.runs.wishes import MOVED_ON_REASON, Wish, Wishes, WishesChanged, cancel_reason, stopped_agents

FLUSH_AFTER_S = 1.0
_FLUSH_BYTES = 12_000
_RENEW_AFTER_S = LEASE.total_seconds() / 3
_LISTEN_EVERY_S = 0.5
"""Seconds between two reads of the wishes for a run: who asks it to end is heard within a second."""
_RETRY_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
_FATAL = (OwnershipLost, Upstream)
"""Failures after which nothing may be written any more."""


class RunLog:
    """Appends to one run's log from segment `head` on, and writes the frames of what it appends to the sink."""

    def __init__(
        self,
        store: Runs,
        sink: Sink,
        clock: Clock,
        *,
        key: RunKey,
        thread: ThreadKey,
        head: int,
        writer: str,
        epoch: int,
        last_message: int | None = None,
        state: State = EMPTY,
        subagents: Sequence[str] = (),
    ) -> None:
        """Build the log of a run whose segment `head` is this writer's.

        `last_message` is the position of the last message that earlier processes committed; None: none. `state` is the
        state that the log has told its clients, `subagents` are those that they see at work.
        """
        self._store = store
        self._sink = sink
        self._clock = clock
        self._key = key
        self._thread = thread
        self._head = head
        self._writer = writer
        self._epoch = epoch
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._open = OpenItems()
        for each in subagents:
            self._open.follow(Event("SUBAGENT_STARTED", each, b""))
        self._lease = LEASE
        self._state = state.value
        self.last_message = last_message
        """Position of the last message that was committed; None: none was."""
        self.has_ended = False
        """The terminal event is committed."""
        self._waiting = Waiting()
        self._sent = 0
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flushing = False
        self._background: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self.when_lost: Callable[[Exception], None] = lambda _: None
        """Told of the failure after which a write in the background failed, and nothing may be written any more."""
        self._closed = False
        self._renew_timer = self._loop.call_later(_RENEW_AFTER_S, self._renew)
        self._listen_timer: asyncio.TimerHandle | None = None

    def listen(
        self,
        cancel: Callable[[str], None],
        pause: Callable[[bool], None],
        stop: Callable[[Collection[AgentId]], None],
        *,
        ends_with_client: bool = False,
    ) -> None:
        """Call `cancel` with the reason once the run is to be cancelled, and until then `pause` with whether it is to.

        `stop` is called with the agents that are to work no more in it.

        A run is to be cancelled when a request says so, or the run's client asks something else, or the client has
        disconnected and another wants the thread; with `ends_with_client` whoever wants it.
        """
        heed = partial(self._heed, cancel, pause, stop, ends_with_client=ends_with_client)
        self._listen_timer = self._loop.call_later(_LISTEN_EVERY_S, lambda: self._spawn(heed()))

    async def _heed(
        self,
        cancel: Callable[[str], None],
        pause: Callable[[bool], None],
        stop: Callable[[Collection[AgentId]], None],
        *,
        ends_with_client: bool,
    ) -> None:
        wishes: Wishes = {}
        with suppress(Upstream):  # asked again the next time
            wishes = await asyncio.to_thread(self._store.wishes, self._key)
        if self._closed:
            return
        reason = cancel_reason(wishes)
        if reason is None and self._sink.is_lost and (ends_with_client or Wish.NEXT in wishes):
            reason = CLIENT_LEFT_REASON if ends_with_client else MOVED_ON_REASON
        if reason is None:
            self.listen(cancel, pause, stop, ends_with_client=ends_with_client)
            pause(Wish.PAUSE in wishes)
            stop(stopped_agents(wishes))
        else:
            cancel(reason)

    def delta(self, prefix: DeltaPrefix, text: str) -> bytes:
        """Add a delta to the log and return its frame, which the caller sends at once.

        Raises:
            Exception: a commit in the background has failed with it: OwnershipLost, Upstream, or a bug.
        """
        if self._failure is not None:
            raise self._failure
        self._sent += 1
        if self._waiting.add_delta(prefix, text) > _FLUSH_BYTES:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_later(FLUSH_AFTER_S, self._flush)
        return frame(encode_delta(prefix, text))

    def soft(self, event: Event) -> bytes:
        """Add the start of a text or a call, or the end of a text, to the log and return its frame, as `delta` does."""
        if self._failure is not None:
            raise self._failure
        self._sent += 1
        self._open.follow(event)
        self._waiting.add(event.data)
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(FLUSH_AFTER_S, self._flush)
        return frame(event.data)

    def wishes(self) -> Wishes:
        """Read what others want of the run; blocks, and raises Upstream when the database could not be reached."""
        return self._store.wishes(self._key)

    def told_of(self, state: State | None) -> list[Event]:
        """Make the event that tells clients of a new state, () where that is what they have; None: it is."""
        return [] if state is None else state_changed(self._state, state.value)

    @property
    def open_subagents(self) -> list[str]:
        """Return the subagents that its clients see at work."""
        return self._open.subagents

    def has_open_text(self, message_id: str) -> bool:
        """Tell whether this message has begun and not ended."""
        return self._open.has_text(message_id)

    async def commit(
        self,
        events: Sequence[Event] = (),
        *,
        history: History | None = None,
        progress: Progress | None = None,
        delegated: DelegatedWork | None = None,
    ) -> None:
        """Commit waiting events and then these, with messages in the same transaction; then send these.

        With `progress` this is a checkpoint: another process can go on from here. `delegated` is what a subagent has
        done.

        Completes even when the caller is cancelled, so that it is always known whether a segment was written.

        Raises:
            OwnershipLost: another process executes the run.
            Upstream: the database could not be reached.
        """
        work = self._commit(lambda: events, history, None, progress=progress, delegated=delegated)
        await asyncio.shield(self._spawn(work))

    async def withdraw(self, position: int, link: Link, *, at_end: bool = False) -> None:
        """Close what is open, and show clients the conversation up to a position anew, without an unfinished turn.

        Raises as `commit` does. With `at_end` it is tried as `finish` is, and for readers of the log alone where the
        conversation cannot be read.
        """
        data = b""
        with suppress(*((Upstream,) if at_end else ())):
            data = await asyncio.to_thread(snapshot, self._store, self._key, position, link)
        work = self._commit(self._open.closing, None, None, shows=position, shown=data, at_end=at_end)
        await asyncio.shield(self._spawn(work))

    async def finish(
        self, terminal: Event, how: RunEnd, *, before: Sequence[Event] = (), history: History | None = None
    ) -> None:
        """Close open items, end the run, and send `before` and the terminal event. Raises as `commit` does.

        Also tried when an earlier commit failed for a reason that says nothing about this one (a bug, a limit).
        """

        def last() -> list[Event]:
            return [*self._open.ending(before), terminal]

        await asyncio.shield(self._spawn(self._commit(last, history, how)))
        self.close()

    async def release(self) -> None:
        """Commit waiting events and end this writer's lease: another process may take the run over at once.

        Raises as `commit` does.
        """
        self._lease = NOBODYS
        await self.commit()
        self.close()

    async def pause(self, told: Event, how: RunPause) -> None:
        """Close open items, pause the run, end this writer's lease, and send `told`.

        Raises as `commit` does, and:
            WishesChanged: the run is not to be paused any more; nothing was written.
        """
        self._lease = NOBODYS
        await asyncio.shield(self._spawn(self._commit(lambda: [*self._open.closing(), told], None, how)))
        self.close()

    async def give_up(self) -> bool:
        """Leave the log to another process; True: that has ended it right behind what is written here, and was told.

        Else the run goes on, or went on, and the stream ends as at a hand-over: whoever asks for the log is told how.
        """
        self.close()
        try:
            rest = await asyncio.to_thread(self._store.segments, self._key, after=self._head, limit=1)
        except Upstream:
            return False
        if not rest or not rest[0].terminal:
            return False
        self._sink.write(b"".join(frame(each.data) for each in [*self._open.ending(), parse(rest[0].events[-1])]))
        return True

    def close(self) -> None:
        """Stop the timers."""
        self._closed = True
        self._renew_timer.cancel()
        for timer in (self._flush_timer, self._listen_timer):
            if timer is not None:
                timer.cancel()

    async def settle(self) -> None:
        """Wait for commits under way; their failures were raised before or do not matter any more."""
        while self._background:
            await asyncio.wait(self._background)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._settled)
        return task

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, WishesChanged):
            return  # nothing is wrong with the log
        if isinstance(failure, Exception) and not isinstance(self._failure, _FATAL):
            # Also a failure that nobody waited for: the run meets it at its next step.
            self._failure = failure

    async def _commit(
        self,
        make_events: Callable[[], Sequence[Event]],
        history: History | None,
        how: RunEnd | RunPause | None,
        *,
        progress: Progress | None = None,
        delegated: DelegatedWork | None = None,
        only_waiting: bool = False,
        shows: int | None = None,
        shown: bytes = b"",
        at_end: bool = False,
    ) -> None:
        async with self._lock:
            if self.has_ended:
                return  # its end was under way when this was asked for
            if self._failure is not None and (isinstance(self._failure, _FATAL) or (how is None and not at_end)):
                raise self._failure
            self._stop_flush_timer()
            waiting, others = self._waiting.take(), self._sent
            if only_waiting and not waiting:
                return  # another commit took the text along
            events = make_events()
            batches = batches_of([*waiting, *(event.data for event in events)])
            written = 0
            try:
                for i, batch in enumerate(batches):
                    last = i == len(batches) - 1
                    await self._append(
                        batch,
                        history if last else None,
                        how if last else None,
                        progress if last else None,
                        delegated if last else None,
                        shows=shows if last else None,
                    )
                    written += len(batch)
            except _FATAL as exc:
                # Here and not in _settled: a task that waits for the lock may run before that.
                self._failure = exc
                raise
            finally:
                # The client has the waiting events: if they cannot be written now, `finish` still writes them.
                self._waiting.put_back(waiting[written:])
            for event in events:
                self._open.follow(event)
            sent = [*(event.data for event in events), *([shown] if shown else [])]
            if sent:
                # What a subagent has said meanwhile is with the client, and in no segment yet.
                is_whole = self._sent == others and (shows is None or bool(shown))
                self._sink.write(frames(sent, n=self._head) if is_whole else b"".join(map(frame, sent)))

    async def _append(
        self,
        batch: tuple[bytes, ...],
        history: History | None,
        how: RunEnd | RunPause | None,
        progress: Progress | None,
        delegated: DelegatedWork | None,
        *,
        shows: int | None,
    ) -> None:
        segment = Segment(
            key=self._key,
            n=self._head + 1,
            writer=self._writer,
            epoch=self._epoch,
            lease_until=self._lease_until(),
            events=batch,
            shows=shows,
            terminal=isinstance(how, RunEnd),
        )

        checkpoint = None
        if history is not None and progress is not None:
            checkpoint = checkpoint_at(segment, history, progress, at=self._clock.now())

        def write() -> None:
            if isinstance(how, RunEnd):
                self._store.finish(segment, how, thread=self._thread, history=history)
            elif how is not None:
                self._store.pause(segment, how)
            else:
                self._store.append(segment, history=history, checkpoint=checkpoint, delegated=delegated)

        for pause_s in (*_RETRY_PAUSES_S, None):
            try:
                await asyncio.to_thread(write)
                break
            except Upstream as exc:
                # The writer token makes a repeat safe, whatever became of this try.
                if pause_s is None or not exc.retryable:
                    raise
                await asyncio.sleep(pause_s)
        self._head = segment.n
        self._state = state_after(batch, self._state)
        self.has_ended = isinstance(how, RunEnd)
        if history is not None:
            self.last_message = history.last
        self._renew_timer.cancel()
        if how is None and not self._closed:
            self._renew_timer = self._loop.call_later(_RENEW_AFTER_S, self._renew)

    def _lease_until(self) -> datetime:
        return self._clock.now() + self._lease

    def _renew(self) -> None:
        self._spawn(self._in_background(only_waiting=False))

    def _flush(self) -> None:
        self._stop_flush_timer()
        if not self._flushing:
            self._flushing = True
            self._spawn(self._flush_in_background())

    async def _flush_in_background(self) -> None:
        try:
            await self._in_background(only_waiting=True)
        finally:
            self._flushing = False
        if self._waiting.size and self._flush_timer is None and self._failure is None and not self._closed:
            # Sent meanwhile, and nothing may follow that sets the timer. Behind a failure flushes would not end.
            self._flush_timer = self._loop.call_later(FLUSH_AFTER_S, self._flush)

    async def _in_background(self, *, only_waiting: bool) -> None:
        if self._closed or self._failure is not None:
            return
        sent, head = self._sent, self._head
        try:
            await self._commit(list, None, None, only_waiting=only_waiting)
        except _FATAL as exc:
            self.when_lost(exc)  # a run that says nothing would not meet it
            raise
        if self._sent == sent and self._head != head:
            self._sink.write(position(self._head))

    def _stop_flush_timer(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

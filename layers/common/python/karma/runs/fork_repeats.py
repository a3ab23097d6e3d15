"""Repeats of requests for new runs from points: a run is named by its request's key, and holds what that asked for.

A fork is a run in a thread of its own, named by the key as well. So a repeat learns what became of them although the
point, from which both are independent, may be gone by then.
"""

from __future__ import annotations

import hashlib

import orjson

from karma.conversations.domain import ThreadKey
from karma.core.ids import RunId, ThreadId, new_id
from karma.core.requests import IdempotencyKey, IdempotencyKeyReused, no_longer
from karma.identity.domain import Caller
from karma.runs.domain import Run, RunKey
from karma.runs.modifications import Modifications
from karma.runs.points import PointId, read_point_id
from karma.runs.ports import Runs
from karma.runs.watchdog import Inspector


def run_key_of(caller: Caller, key: IdempotencyKey | None) -> RunKey:
    """Return the key of the run that a request begins: the same one for its repeats."""
    return RunKey(caller.user_id, RunId(key.token[:32] if key else new_id()))


def own_thread_of(caller: Caller, key: IdempotencyKey | None) -> ThreadKey:
    """Return the key of the thread in which a fork begins: the same one for its repeats."""
    return ThreadKey(caller.user_id, ThreadId(key.token[:32] if key else new_id()))


def digest_of(place: PointId, wanted: Modifications, description: str) -> str:
    """Return the digest by which a request from a point is compared with those that repeat it."""
    told = [list(place), wanted.told, description]
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()


def begun_before(store: Runs, inspector: Inspector, key: RunKey, digest: str) -> Run | None:
    """Return the run that an earlier equal request has begun; its process may have died before it was executed.

    Raises:
        IdempotencyKeyReused: that request was another one.
    """
    run = store.run(key)
    if run is None:
        return None
    if run.asked_hash != digest:
        raise IdempotencyKeyReused
    inspector.look(run.key)
    return run


def require_thread(store: Runs, thread: ThreadKey, run: Run) -> None:
    """Require that the thread in which a run was forked was not deleted.

    Raises:
        Gone: it was.
    """
    found = store.thread(thread)
    if found.is_deleted and not found.is_draft:
        raise no_longer(run.key.run_id)


def forked_before(
    store: Runs,
    inspector: Inspector,
    caller: Caller,
    checkpoint_id: str,
    wanted: Modifications,
    description: str,
    *,
    key: IdempotencyKey | None,
) -> Run | None:
    """Return the run that an earlier equal request has forked, whatever became of its point; None: none has.

    Raises:
        Gone: it was deleted with its thread.
        IdempotencyKeyReused: that request was another one.
    """
    place = read_point_id(checkpoint_id)
    if key is None or place is None:
        return None
    run_key, thread = run_key_of(caller, key), store.thread(own_thread_of(caller, key))
    if thread.is_deleted and not thread.is_draft:
        raise no_longer(run_key.run_id)
    return begun_before(store, inspector, run_key, digest_of(place, wanted, description))

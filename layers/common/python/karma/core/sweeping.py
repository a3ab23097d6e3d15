"""The one loop of every sweep: what is wrong with one item costs that item, and none of those that stand behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final, TypeVar

from karma.core.clock import Clock
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.work import DueItems, put_off
from karma.core.errors import Upstream
from karma.core.observability import count, logger

T = TypeVar("T")

PUT_OFF: Final = timedelta(hours=1)
"""Time for which an item is left alone that a sweep could not deal with for a reason that nobody has thought of."""


def sweep_each(
    sweep: str, items: Iterable[T], deal_with: Callable[[T], int], *, name: Callable[[T], str], clock: Clock
) -> int:
    """Deal with each item of a sweep; return the sum of what `deal_with` returns.

    An item that somebody else has changed is passed over. One that another system keeps from being dealt with is
    logged, counted and met again by the next call. Any other exception is a bug, or a state that nobody has thought of:
    it is logged with the item's name and counted as `UnhandledError`, which raises the alarm, and the item is put off
    for `PUT_OFF` where the list says its place, so that many of its kind cannot hold up those behind them.

    Args:
        sweep: name of the sweep, for logs and metrics.
        items: what is due; a `DueItems` says where each item stands.
        deal_with: does the next step of an item and returns how much was changed.
        name: returns an item's id, for the log; no personal data.
        clock: the time.
    """
    done = 0
    for at, item in enumerate(items):
        try:
            done += deal_with(item)
        except ConditionFailed:
            logger.info("sweep.item_changed", sweep=sweep, item=name(item))
        except Upstream as exc:
            logger.warning("sweep.item_left", sweep=sweep, item=name(item), cause=type(exc).__name__)
            count("SweepItemLeft", sweep=sweep)
        except Exception as exc:  # noqa: BLE001  one item's bug must not hold back the others
            logger.error("sweep.item_broken", sweep=sweep, item=name(item), exc_info=exc)
            count("SweepItemBroken", sweep=sweep)
            count("UnhandledError")
            if isinstance(items, DueItems):
                _put_off(items, at, clock)
    return done


def _put_off(items: DueItems[T], at: int, clock: Clock) -> None:
    try:
        put_off(items.places[at], until=clock.now() + PUT_OFF)
    except Exception as exc:  # noqa: BLE001  it is met again by the next call
        logger.warning("sweep.item_not_put_off", cause=type(exc).__name__)

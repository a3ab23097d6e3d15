"""One TransactWriteItems call that several contexts fill: `billing.reserve(tx, ...)`, `devices.create(tx, ...)`.

tx = Transaction()
tx.put(unique_serial, on_fail=AlreadyExists("serial_number is taken"))
tx.check(UserItem, key, UserItem.deleted_at.does_not_exist(), on_fail=Gone("account deleted"))
tx.commit()
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from pynamodb.exceptions import TransactWriteError
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.dynamo.failures import ITEM_BYTES, ConditionFailed, bytes_at_least, storage_errors, too_large
from karma.core.dynamo.items import Item, Key, connection_of
from karma.core.errors import AppError, StorageThrottled, StorageUnavailable
from karma.core.faults import code_of

_PAUSES_S = (0.05, 0.1, 0.2)
"""Pauses between attempts while another transaction holds an item, such as two that check the same item at once.

DynamoDB cancels the later one at once, and the SDK does not repeat it.
"""
MAX_ITEMS = 100
"""DynamoDB's limit on one transaction."""
_MAX_BYTES = 4 * 1024 * 1024
"""DynamoDB's limit on the sizes of all items of one transaction together."""


RawItem = Mapping[str, Mapping[str, Any]]
"""An item in DynamoDB's JSON; {}: there is none."""
OnFail = AppError | Callable[[RawItem], AppError | None]
"""Error for a false condition; or what finds it by the item as it was: None, if it has made the condition true."""


class _Held(Exception):
    """Another transaction holds an item of this one, or did until now."""


class Transaction:
    """Collects writes; `commit` does all or none of them. May be committed once."""

    def __init__(self, *, token: str | None = None) -> None:
        """`token` (1-36 characters) makes a repeat within ten minutes succeed without writing again.

        With one, a commit whose answer was lost is sent once more, and so mostly known to have happened, or not.
        """
        self._token = token
        self._writes: dict[str, list[tuple[dict[str, Any], OnFail | None]]] = {
            "check": [],
            "delete": [],
            "put": [],
            "update": [],
        }
        self._tables: list[type[Item]] = []
        self._saved: list[Item] = []

    def put(self, item: Item, condition: Condition | None = None, *, on_fail: AppError | None = None) -> None:
        """Add a write of a whole item under its version lock (a new one must not exist)."""
        connection_of(type(item))
        self._add("put", type(item), item.get_save_kwargs_from_instance(condition=condition), on_fail)
        self._saved.append(item)

    def update(
        self,
        item: Item,
        actions: Iterable[Action],
        condition: Condition | None = None,
        *,
        locked: bool = False,
        on_fail: AppError | None = None,
    ) -> None:
        """Add a change of attributes; without `condition` the item must exist."""
        connection_of(type(item))
        if not locked:
            item.count_versions_from_stored()
        kwargs = item.get_update_kwargs_from_instance(
            actions=list(actions),
            condition=type(item).pk.exists() if condition is None else condition,
            add_version_condition=locked,
        )
        self._add("update", type(item), kwargs, on_fail)

    def upsert(
        self,
        item: Item,
        actions: Iterable[Action],
        condition: Condition | None = None,
        *,
        on_fail: OnFail | None = None,
    ) -> None:
        """Add a change of attributes that creates the item when it is absent and `condition` allows that."""
        connection_of(type(item))
        item.count_versions_from_stored()
        kwargs = item.get_update_kwargs_from_instance(
            actions=[*type(item).identity_actions(), *actions], condition=condition, add_version_condition=False
        )
        self._add("update", type(item), kwargs, on_fail)

    def delete(
        self, item: Item, condition: Condition | None = None, *, locked: bool = False, on_fail: AppError | None = None
    ) -> None:
        """Add a delete."""
        connection_of(type(item))
        kwargs = item.get_delete_kwargs_from_instance(condition=condition, add_version_condition=locked)
        self._add("delete", type(item), kwargs, on_fail)

    def check(self, kind: type[Item], key: Key, condition: Condition, *, on_fail: OnFail | None = None) -> None:
        """Add a condition on an item that this transaction does not write."""
        connection_of(kind)
        kwargs = kind.get_operation_kwargs_from_class(key.pk, range_key=key.sk, condition=condition)
        self._add("check", kind, kwargs, on_fail)

    def commit(self) -> None:
        """Write everything or nothing; try again, for up to .4 s, while another transaction holds an item.

        Raises:
            AppError: a condition was false; the `on_fail` of the first such write.
            ConditionFailed: a condition was false, and the first such write has no `on_fail`.
            PayloadTooLarge: an item has more than 400 KB, or all items together more than 4 MB.
            StorageThrottled: other transactions held an item during all attempts, or the table is throttled.
            StorageUnavailable: DynamoDB did not answer. All may have been written or nothing: a request repeated under
                an Idempotency-Key finds its record, which is part of the transaction (karma.core.dynamo.requests).
        """
        if not self._tables:
            return
        may_ask_again = self._token is not None
        for pause_s in (*_PAUSES_S, None):
            try:
                self._send()
                break
            except StorageUnavailable:
                if not may_ask_again or pause_s is None:
                    raise
                may_ask_again = False
                time.sleep(pause_s)
            except _Held as exc:
                if pause_s is None:
                    raise StorageThrottled("The database is busy; try again") from exc
                time.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311  so that two do not meet again
        for item in self._saved:
            item.update_local_version_attribute()  # type: ignore[no-untyped-call]

    def _send(self) -> None:
        by_kind = {kind: [dict(kwargs) for kwargs, _ in writes] for kind, writes in self._writes.items()}
        try:
            with storage_errors():
                connection_of(self._tables[0]).connection.transact_write_items(
                    condition_check_items=by_kind["check"],
                    delete_items=by_kind["delete"],
                    put_items=by_kind["put"],
                    update_items=by_kind["update"],
                    client_request_token=self._token,
                )
        except TransactWriteError as exc:
            self._raise_reason(exc)

    def _add(self, kind: str, table: type[Item], kwargs: dict[str, Any], on_fail: OnFail | None) -> None:
        if callable(on_fail):
            kwargs["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        self._writes[kind].append((kwargs, on_fail))
        self._tables.append(table)

    def _raise_reason(self, exc: TransactWriteError) -> NoReturn:
        # Reasons stand in the order in which PynamoDB sends the writes: checks, deletes, puts, updates.
        on_fails = [on_fail for writes in self._writes.values() for _, on_fail in writes]
        codes = [reason.code if reason else None for reason in exc.cancellation_reasons]
        for reason, on_fail in zip(exc.cancellation_reasons, on_fails, strict=False):
            if reason and reason.code == "ConditionalCheckFailed":
                error = on_fail(reason.raw_item or {}) if callable(on_fail) else on_fail or ConditionFailed()
                raise (error or _Held()) from exc
        if "TransactionConflict" in codes:
            raise _Held from exc
        if any(code in {"ThrottlingError", "ProvisionedThroughputExceeded"} for code in codes):
            raise StorageThrottled("The database is busy; try again") from exc
        if "ValidationError" in codes or code_of(exc.cause) == "ValidationException":
            sizes = [bytes_at_least(kwargs) for writes in self._writes.values() for kwargs, _ in writes]
            if max(sizes) > ITEM_BYTES or sum(sizes) > _MAX_BYTES:
                raise too_large() from exc
        raise exc

"""Base of every stored item, and the connection of a context's items to their table.

    class DevicesItem(Item):                 # one base a context and table
        class Meta(TableMeta):
            logical = "devices"              # karma.core.dynamo.tables maps it to the deployed table

    class DeviceItem(DevicesItem, discriminator="device"):
        name = UnicodeAttribute()

Keys: pk, sk; sparse index gsi1 (gsi1pk, gsi1sk). `version` is PynamoDB's optimistic lock: saving a new item
requires that none exists, saving a loaded one that nobody has changed it. Discriminators are unique over all tables.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, NamedTuple

from pynamodb.attributes import DiscriminatorAttribute, NumberAttribute, UnicodeAttribute, VersionAttribute
from pynamodb.connection.table import TableConnection
from pynamodb.expressions.update import Action
from pynamodb.indexes import AllProjection, GlobalSecondaryIndex
from pynamodb.models import Model

from karma.core import aws
from karma.core.dynamo.tables import deployed


class Key(NamedTuple):
    """Primary key of one item."""

    pk: str
    sk: str


class TableMeta:
    """Settings of PynamoDB that all tables share; time-outs and retries are those of karma.core.aws."""

    logical: ClassVar[str]
    """Logical name of the table, such as `devices`."""
    table_name: ClassVar[str] = "unbound"
    """Name of the deployed table, in which PynamoDB reads and writes; `connection_of` sets it."""


class Gsi1(GlobalSecondaryIndex[Any]):
    """The only index of a table; it holds the items that have gsi1pk."""

    class Meta:
        """The index's settings for PynamoDB."""

        index_name = "gsi1"
        projection = AllProjection()

    gsi1pk = UnicodeAttribute(hash_key=True)
    gsi1sk = UnicodeAttribute(range_key=True)


class Item(Model):
    """Base of every stored item."""

    pk = UnicodeAttribute(hash_key=True)
    sk = UnicodeAttribute(range_key=True)
    type = DiscriminatorAttribute()
    schema = NumberAttribute(default=1)
    """Layout number of this item; repositories upgrade older layouts when they read them."""
    version = VersionAttribute()
    created_at = UnicodeAttribute(null=True)
    """ISO 8601 UTC with milliseconds."""
    updated_at = UnicodeAttribute(null=True)
    expires_at = NumberAttribute(null=True)
    """Epoch seconds after which DynamoDB may delete the item, days late, so readers compare it too. None: never."""
    gsi1pk = UnicodeAttribute(null=True)
    gsi1sk = UnicodeAttribute(null=True)
    gsi1 = Gsi1()

    @property
    def key(self) -> Key:
        """Primary key of this item."""
        return Key(self.pk, self.sk)

    def count_versions_from_stored(self) -> None:
        """Make the next update add one to the stored version.

        PynamoDB would set the version of an item that was named by its key, and not loaded, back to 1, and writes
        locked on an older version would succeed again.
        """
        if self.version is None:
            self.version = 0

    @classmethod
    def identity_actions(cls) -> list[Action]:
        """Return the actions that an update needs besides its own when it may create the item."""
        return [cls.type.set(cls), cls.schema.set(cls.schema | 1)]


def connection_of(kind: type[Item]) -> TableConnection:
    """Return the connection to an item's table, over the process's one client.

    PynamoDB would otherwise build a client for each table, at 50 ms each, and look up the table's keys by
    DescribeTable.

    Raises:
        TableUnbound: the process has no deployed table bound to the item's logical one.
    """
    table = base_of(kind)
    meta: Any = table.Meta
    meta.table_name = deployed(meta.logical)
    # A new one when the name has changed.
    connection: TableConnection = table._get_connection()  # noqa: SLF001  PynamoDB has no public way to hand it a client
    client: Any = aws.client("dynamodb")
    if connection.connection._client is not client:  # noqa: SLF001
        connection.connection._client = client  # noqa: SLF001
    return connection


@cache
def base_of(kind: type[Item]) -> type[Item]:
    """Return the class that names the table; it and all classes derived from it share one connection."""
    return next(each for each in kind.__mro__ if "Meta" in vars(each))

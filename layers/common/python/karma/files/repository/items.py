"""Keys and items of device files in the `devices` table; access patterns are in docs/adr/0009-files.md.

FILES#<device>   FILE#<file>      an entry that is listed            gsi1: by directory, then name
FILES#<device>   UPLOAD#<file>    one not listed (yet, or any more) gsi1: by when a sweep must look at it
FILES#<device>   NAME#<hash of path>#<hash of name>   a unique name, of one entry; see repository/names.py
FILES#<device>   REQUEST#<token>  file made for an Idempotency-Key
FILES#<device>   SHARE#<file>#<share>   a link to a file
FILES#<device>   COUNT            number of all names of the device, and the marks of its trees (karma/files/marks.py)
FILES#<device>   TREE#<change>    a tree that is or was moved or deleted   gsi1: by when a sweep must look at it

gsi1   DIR#<device>#<hash of path>   <0 directory, 1 file>#<name, lower case>#<file>
       SWEEP#FILES                   <due>#<file>
       SWEEP#TREES                   <due>#<change>
"""

from __future__ import annotations

import hashlib
from typing import Final

from pynamodb.attributes import BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.core.dynamo.items import Gsi1, Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import DeviceId, FileId

LISTED_PREFIX: Final = "FILE#"
UPLOAD_PREFIX: Final = "UPLOAD#"
SWEEP_PARTITION: Final = "SWEEP#FILES"
NAME_PREFIX: Final = "NAME#"
TREE_PREFIX: Final = "TREE#"
TREE_SWEEP_PARTITION: Final = "SWEEP#TREES"
NAME_KEY_CHARS: Final = 100
"""Characters of a name, in lower case, that order a directory: a cursor carries them and has to stay short."""


def files_pk(device_id: DeviceId) -> str:
    """Return the partition of a device's files."""
    return f"FILES#{device_id}"


def listed_key(device_id: DeviceId, file_id: FileId) -> Key:
    """Return the key of an entry that is listed."""
    return Key(files_pk(device_id), f"{LISTED_PREFIX}{file_id}")


def upload_key(device_id: DeviceId, file_id: FileId) -> Key:
    """Return the key of a file that is not listed."""
    return Key(files_pk(device_id), f"{UPLOAD_PREFIX}{file_id}")


def name_key(device_id: DeviceId, path: str, name: str) -> Key:
    """Return the key of the item that makes a name unique in its directory."""
    return Key(files_pk(device_id), f"{names_prefix(path)}{_hash(name)}")


def share_key(device_id: DeviceId, file_id: FileId, share_id: str) -> Key:
    """Return the key of a link to a file."""
    return Key(files_pk(device_id), f"{shares_prefix(file_id)}{share_id}")


def shares_prefix(file_id: FileId) -> str:
    """Return the prefix of the keys of a file's links."""
    return f"SHARE#{file_id}#"


def count_key(device_id: DeviceId) -> Key:
    """Return the key of the number of a device's names."""
    return Key(files_pk(device_id), "COUNT")


def tree_change_key(device_id: DeviceId, change_id: str) -> Key:
    """Return the key of a tree change."""
    return Key(files_pk(device_id), f"{TREE_PREFIX}{change_id}")


def names_prefix(path: str) -> str:
    """Return the prefix of the keys of all unique names in one directory."""
    return f"{NAME_PREFIX}{_hash(path)}#"


def directory_pk(device_id: DeviceId, path: str) -> str:
    """Return the partition of gsi1 with the entries of one directory."""
    return f"DIR#{device_id}#{_hash(path)}"


def directory_sk(name: str, file_id: FileId, *, is_directory: bool) -> str:
    """Return the sort key of an entry in its directory: directories first, then by name regardless of case."""
    return f"{0 if is_directory else 1}#{name[:NAME_KEY_CHARS].casefold()[:NAME_KEY_CHARS]}#{file_id}"


def _hash(text: str) -> str:
    # A path may be as long as a key.
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class FilesItem(Item):
    """Base of the items of files."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "devices"

    gsi1 = Gsi1()


class FileItem(FilesItem, discriminator="device_file"):
    """A file or directory; its sort key says whether it is listed."""

    file_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    name = UnicodeAttribute()
    path = UnicodeAttribute()
    kind = UnicodeAttribute()
    """`type` of the API; in the table, that attribute is the discriminator."""
    category = UnicodeAttribute()
    size = NumberAttribute()
    status = UnicodeAttribute()
    is_directory = BooleanAttribute(default=False)
    mime_type = UnicodeAttribute(null=True)
    storage_url = UnicodeAttribute(null=True)
    md5 = UnicodeAttribute(null=True)
    sha256 = UnicodeAttribute(null=True)
    declared_sha256 = UnicodeAttribute(null=True)
    metadata = JSONAttribute(default=dict)
    permissions = JSONAttribute(default=dict)
    rejection = UnicodeAttribute(null=True)
    modified_at = UnicodeAttribute()
    accessed_at = UnicodeAttribute(null=True)
    revision = NumberAttribute(default=1)
    upload_id = UnicodeAttribute(null=True)
    part_checksums = BooleanAttribute(default=False)
    is_by_device = BooleanAttribute(null=True)
    upload_expires_ms = NumberAttribute(default=0)
    completed_ms = NumberAttribute(default=0)
    previews = JSONAttribute(null=True)
    """Absent: nothing is made of it, or it is of before there were previews."""
    previews_pending = BooleanAttribute(null=True)
    """True while a part is to be made, which the stream tells; absent otherwise."""
    excerpt = UnicodeAttribute(null=True)


class FileRequestItem(RequestAttributes, FilesItem, discriminator="device_file_request"):
    """Record of the file that a request with an Idempotency-Key created."""


class FileNameItem(FilesItem, discriminator="device_file_name"):
    """A unique name in a directory, with the id of the entry that has it."""

    file_id = UnicodeAttribute()
    is_directory = BooleanAttribute(default=False)
    names_inside = NumberAttribute(default=0)
    """Of a directory: number of names in it, of entries in any state; 0 for a file."""


class CountItem(FilesItem, discriminator="device_file_count"):
    """Number of names that a device's entries have; it limits them."""

    names = NumberAttribute(default=0)
    """Names taken less names freed since this release; so the limit comes on top of what earlier ones stored."""
    marks = JSONAttribute(null=True)
    """`[[change, kind, directory, source, target, is begun], ...]`; absent: no tree is being moved or deleted."""
    marks_version = NumberAttribute(null=True)
    """Goes up with each change of the marks; absent: there never was one."""


class FileShareItem(FilesItem, discriminator="device_file_share"):
    """A link to a file; DynamoDB removes it some time after `expires_at`."""

    share_id = UnicodeAttribute()
    file_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    secret_hash = UnicodeAttribute()
    downloads = NumberAttribute(default=0)
    max_downloads = NumberAttribute(null=True)


class TreeChangeItem(FilesItem, discriminator="device_tree_change"):
    """A move or a deletion of a tree; DynamoDB removes it some time after `expires_at`."""

    change_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    kind = UnicodeAttribute()
    directory_id = UnicodeAttribute()
    source = UnicodeAttribute()
    target = UnicodeAttribute(null=True)
    state = UnicodeAttribute()
    is_begun = BooleanAttribute(default=False)
    total = NumberAttribute(null=True)
    done = NumberAttribute(default=0)
    created_ms = NumberAttribute()
    ended_ms = NumberAttribute(null=True)
    attempts = NumberAttribute(default=0)
    held_until_ms = NumberAttribute(default=0)
    failure = JSONAttribute(null=True)
    """`[code, message]`."""

"""What a SQLite file tells of the promises."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final

from sqlalchemy import Connection, delete, false
from sqlalchemy import table as table_named
from sqlalchemy.exc import DBAPIError

from ...model import Finding
from ..timeout import busy_timeout
from . import Catalogue
from .asking import RUN_TWICE, asked, first, good, mend, note

_NETWORK: Final = frozenset({
    "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "davfs", "fuse.ceph", "fuse.davfs", "fuse.glusterfs", "fuse.juicefs",
    "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb",
    "smb2", "smb3", "smbfs", "virtiofs", "webdav",
})  # fmt: skip
_MOUNTS: Final = Path("/proc/self/mounts")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_SYNCHRONOUS: Final = ("OFF", "NORMAL", "FULL", "EXTRA")
_FULL: Final = 2
_OLDEST: Final = (3, 31)


class SQLiteCatalogue(Catalogue):
    """SQLite's."""

    @classmethod
    def examine(cls, connection: Connection, table: str, schema: str | None) -> list[Finding]:
        """Ask, and judge."""
        if _file(connection) is None:
            return [*_of_file(connection)]
        # Last, because the write lock stays until the transaction ends.
        return [*_of_file(connection), *_of_connection(connection), *_of_writing(connection, table, schema)]

    @classmethod
    def lockless(cls, connection: Connection) -> str | None:
        """Say whether the file is on a network file system."""
        name = _file(connection)
        if name is None or (kind := network(name)) is None:
            return None
        return (
            f"{name} is on a network file system ({kind}), where locks of one machine do not keep another one out: two can "
            f"write at once, and damage the file. Put it on a local disk"
        )


def network(name: str, mounts: str | None = None) -> str | None:
    """Return the kind of the network file system that a file is on; ``None`` for a local one, or where nothing tells.

    Args:
        name: of the file.
        mounts: what is mounted, in the words of Linux; read from there if it is not given.
    """
    if name.startswith(("\\\\", "//")):
        return "a share"
    if mounts is None:
        if not _MOUNTS.exists():
            return None
        mounts = _MOUNTS.read_text("utf-8", "replace")
    path, found = PurePath(os.path.realpath(name)), ("", "")
    for line in mounts.splitlines():
        _, point, kind, *_ = [*line.split(), "", "", ""]
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), point)  # a blank in it is written \040
        # The one that was mounted last on the longest beginning of the path.
        if point and path.is_relative_to(point) and len(point) >= len(found[0]):
            found = point, kind
    return found[1] if found[1] in _NETWORK else None


def _file(connection: Connection) -> str | None:
    rows = asked(connection, "PRAGMA database_list") or []
    return next((file for _, name, file in rows if name == "main" and file), None)


def _of_file(connection: Connection) -> Iterator[Finding]:
    version = str(first(connection, "SELECT sqlite_version()"))
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        yield mend(
            "version",
            f"SQLite {version}: the library is made for 3.31 and later",
            "Take a newer Python, or a newer SQLite",
        )
    if _file(connection) is None:
        text = "in memory: gone with its last connection, and each connection may have one of its own"
        yield note("file", text, "Name a file")
        return
    if (why := SQLiteCatalogue.lockless(connection)) is not None:
        found, _, cure = why.rpartition(". ")
        yield mend("file", found, cure)
    else:
        yield good("file", "on a local disk, as far as can be told")


def _of_connection(connection: Connection) -> Iterator[Finding]:
    mode = str(first(connection, "PRAGMA journal_mode")).lower()
    if mode in ("off", "memory"):
        text = f"{mode}: a ROLLBACK or a crash in the middle of a write leaves the file damaged"
        yield mend("journal_mode", text, "PRAGMA journal_mode = WAL")
    elif mode == "wal":
        yield good("journal_mode", "wal")
    else:
        yield note("journal_mode", f"{mode}: who reads and who writes wait for each other", "PRAGMA journal_mode = WAL")
    level = int(first(connection, "PRAGMA synchronous") or 0)
    if level < (_FULL if mode == "wal" else 1):
        text = f"{_SYNCHRONOUS[level]}: a loss of power forgets what was acknowledged in the last moment. {RUN_TWICE}"
        yield mend("synchronous", text, "PRAGMA synchronous = FULL on each connection, where the engine is made")
    else:
        yield good("synchronous", _SYNCHRONOUS[min(level, 3)])
    for _, name, _ in asked(connection, "PRAGMA database_list") or []:
        quoted = str(name).replace('"', '""')
        if name not in ("main", "temp") and first(connection, f'PRAGMA "{quoted}".journal_mode') == "wal":
            text = f"{name} is in WAL mode, where SQLite commits file by file: calls are refused"
            yield mend("attached", text, f"PRAGMA {name}.journal_mode = DELETE, or keep both in one file")


def _of_writing(connection: Connection, table: str, schema: str | None) -> Iterator[Finding]:
    name = _file(connection) or ""
    if first(connection, "PRAGMA query_only"):
        text = "PRAGMA query_only is ON: every call is refused"
        yield mend("grants", text, "Take the PRAGMA out of where the engine is made")
    elif not (os.access(name, os.W_OK) and os.access(os.path.dirname(name) or ".", os.W_OK)):
        text = "this user may not write to the file, or not make the journal beside it"
        yield mend("grants", text, "Give the user the file and its folder")
    elif _is_read_only(connection, table, schema):
        text = "SQLite has opened the file for reading only: every call is refused"
        yield mend("grants", text, "Take mode=ro and immutable=1 out of the URL")


def _is_read_only(connection: Connection, table: str, schema: str | None) -> bool:
    """Say whether SQLite refuses to write, by deleting no row: that takes the write lock, and changes no byte."""
    nothing = delete(table_named(table, schema=schema)).where(false())
    try:
        # Whoever holds the lock is not waited for: that the file can be written is known then.
        with busy_timeout(connection, 0), connection.begin_nested():
            connection.execute(nothing)
    except DBAPIError as error:
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY
    return False

"""What SQLite keeps its locks for after a call was cancelled or interrupted: ended now, and not when it is collected."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


def close_cursor(cursor: Any) -> None:
    """Close the cursor of a SELECT that may be half read, if it is SQLite's.

    It holds a lock that keeps everybody from committing, past ROLLBACK and past the end of its connection, for as long as
    it lives, and the error's traceback holds it. The other drivers would read to the end of an answer that may never come;
    and SQLAlchemy 2.0 keeps aiosqlite's where nobody else finds it.
    """
    inner: Any = getattr(cursor, "_cursor", None)
    if isinstance(cursor, sqlite3.Cursor):
        with suppress(sqlite3.Error):
            cursor.close()
    elif isinstance(getattr(inner, "_cursor", None), sqlite3.Cursor):  # SQLAlchemy's around aiosqlite's around it
        behind(inner.close())


def roll_back(raw: Any) -> None:
    """Roll a driver's connection back before it is closed.

    SQLite keeps a closed one alive, and its write lock held against everybody, for as long as the cursor of a half-read
    SELECT lives, which may be the application's own.
    """
    if isinstance(raw, sqlite3.Connection):
        with suppress(sqlite3.Error):
            raw.rollback()
    else:
        behind(raw.rollback())


def behind(work: Coroutine[Any, Any, Any]) -> None:
    """Have aiosqlite's thread do something when it comes to it.

    Not awaited: it may be waiting for the lock itself. What closes the connection comes behind it.
    """
    try:
        asyncio.get_running_loop().create_task(work).add_done_callback(_seen)
    except RuntimeError:  # no loop is running
        work.close()


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()

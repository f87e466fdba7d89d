"""The databases of the inbox's tests."""

from __future__ import annotations

from tests.support.newest import db, server_db

__all__ = ["db", "server_db"]

"""Connections that a fork has left in two processes, where each would read the answers to the other's statements."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from .origin import root

if TYPE_CHECKING:
    from sqlalchemy import Engine

_engines: Final[WeakSet[Engine]] = WeakSet()
_inherited: Final[list[Any]] = []
"""Kept: some drivers take leave of the server when a connection is collected, which would end the parent's."""


def leave_to_parent(engine: Engine) -> None:
    """Have a forked process begin with a pool of its own, and leave the parent's to the parent; twice is harmless.

    Not for a database in memory, which is in the pool and nowhere else.
    """
    _engines.add(root(engine))


def _forked() -> None:
    for engine in list(_engines):
        _inherited.append(engine.pool)
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)

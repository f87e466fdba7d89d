"""SQLAlchemy's bridge from what runs without ``await`` to the event loop that waits for it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy.util.concurrency import greenlet_spawn, in_greenlet

T = TypeVar("T")


def awaited(value: Any) -> Any:
    """Wait for what an async client returned; anything else is returned as it is.

    Only inside ``run_sync`` or `bridged`, where SQLAlchemy's bridge to the event loop is open.
    """
    if not inspect.isawaitable(value):
        return value
    from sqlalchemy.util import await_only

    return await_only(value)


def bridged(work: Callable[..., T], *args: Any) -> Awaitable[T]:
    """Run something with the bridge open where there is no session, whose own ``run_sync`` would do it."""
    return greenlet_spawn(work, *args)


def is_bridged() -> bool:
    """Say whether an event loop waits for what runs here, which must not make it wait: inside ``run_sync`` or `bridged`."""
    return sys.modules.get("greenlet") is not None and in_greenlet()

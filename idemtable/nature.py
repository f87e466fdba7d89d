"""What code of somebody else's raises by nature, and what only came in the middle of it."""

from __future__ import annotations

from collections.abc import Callable


def by_nature(error: Exception, doing: Callable[[], object]) -> bool:
    """Say whether an error is what `doing` raises, and not what a signal handler has raised while it was done.

    By its class nobody can tell: the time limit of a task is an ``Exception`` like any other (Celery's, ``TimeoutError``),
    and a codec, a seal or an ``__eq__`` may raise whatever it likes. But it does so each time, and a signal comes once.

    Args:
        error: that was raised.
        doing: does it again; nothing else may come of that.
    """
    try:
        doing()
    except Exception as again:
        return type(again) is type(error)
    return False

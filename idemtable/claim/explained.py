"""What the errors of the library's own statements tell a caller, who may be waiting for itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import IdempotencyError, InProgressError, ReentrantCallError
from . import nesting
from .verdict import Verdict

if TYPE_CHECKING:
    from sqlalchemy import URL

    from ..dialects import Dialect
    from ..settings import Settings


def meaning(
    verdict: Verdict, settings: Settings, scope: str, *, repeats: bool, waits: bool = True
) -> IdempotencyError | None:
    """Return what an error tells a caller; ``None``: what it says itself. Arguments as of `Verdict.meaning`."""
    told = verdict.meaning(settings, scope, repeats=repeats, waits=waits)
    if isinstance(told, InProgressError) and _is_for_itself(settings):
        return ReentrantCallError(
            f"{scope}: a call around this one holds the database's one lock to write, and waits for this one: have it join "
            f"that call's session (by .join, or a block), make both with one IdemTable, or do one after the other",
            scope=scope,
        )
    return told


def _is_for_itself(settings: Settings) -> bool:
    """Say whether who waits is inside of a call that works in the same file, whose one lock to write that call holds."""
    database, url = settings.dialect, settings.engine.url
    if not database.is_file or database.in_memory(url):
        return False
    binds = (frame.session.bind for frame in nesting.around())
    return any(bind is not None and _path(bind.engine.url) == _path(url) for bind in binds)


def _path(url: URL) -> str:
    return os.path.abspath(url.database or "")


@contextmanager
def explained(
    settings: Settings, scope: str, dialect: Dialect | None = None, *, repeats: bool = True, waits: bool = True
) -> Iterator[None]:
    """Tell what the errors of the library's own statements inside mean; arguments as of `Verdict.meaning`."""
    try:
        yield
    except IdempotencyError:  # an answer of our own has told already
        raise
    except Exception as error:  # whatever its class, as of `settle`
        verdict = Verdict(error, dialect or settings.dialect)
        if told := meaning(verdict, settings, scope, repeats=repeats, waits=waits):
            raise told from error
        raise

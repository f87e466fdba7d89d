"""What the errors of the library's own statements tell a caller, who may be waiting for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ..errors import IdempotencyError, InProgressError, ReentrantCallError
from .itself import wants_its_lock
from .verdict import Verdict

if TYPE_CHECKING:
    from ..dialects import Dialect
    from ..settings import Settings


_HELD: Final = "another call or transaction holds a lock that this needs"
"""What is no call, such as to issue tokens or to forget a key, waits for."""


def meaning(
    verdict: Verdict, settings: Settings, scope: str, *, repeats: bool, waits: bool = True, held: str | None = None
) -> IdempotencyError | None:
    """Return what an error tells a caller; ``None``: what it says itself. Arguments as of `Verdict.meaning`."""
    told = verdict.meaning(settings, scope, repeats=repeats, waits=waits, held=held)
    if isinstance(told, InProgressError) and wants_its_lock(settings):
        return ReentrantCallError(
            f"{scope}: a call around this one holds the database's one lock to write, and waits for this one: have it join "
            f"that call's session (by .join, or a block), make both with one IdemTable, or do one after the other",
            scope=scope,
        )
    return told


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
        if told := meaning(verdict, settings, scope, repeats=repeats, waits=waits, held=_HELD):
            raise told from error
        raise

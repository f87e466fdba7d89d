"""Deleting what has expired: short batches, one runner at a time, by the row's own time and the database's clock.

How the batches get through the table is each database's own (`dialects.purging`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError

from .annotations import refuse_async
from .claim.run import alone
from .claim.verdict import Verdict
from .dialects import Fault, Swept
from .model import PurgeReport
from .settings import LONGEST_WAIT

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .settings import Settings

_LEASE: Final = 60_000_000
"""Microseconds. Renewed with each batch, which takes well under a second: a minute outlasts a slow one, and is how long
the next runner waits for one that was killed. A lease in a row and not a lock: a lock would need a session of its own
through every pooler, or end with each batch."""

Progress = Callable[[int], object]
Step = Callable[["Connection"], Any] | float
"""Work for one transaction, or seconds to sleep."""


def _steps(
    settings: Settings, batch: int, limit: int | None, pause: timedelta, progress: Progress | None
) -> Generator[Step, Any, PurgeReport]:
    records, owner = settings.records, os.urandom(16)
    began = time.monotonic()
    deleted = batches = 0

    def report(busy: bool = False) -> PurgeReport:
        return PurgeReport(deleted, batches, time.monotonic() - began, busy)

    def lease(connection: Connection) -> bool:
        try:
            return records.lease(connection, owner, _LEASE)
        except SQLAlchemyError as error:
            if Verdict(error, settings.dialect).is_busy:  # the other runner is inside a batch
                return False
            raise

    def delete(size: int) -> Callable[[Connection], Swept]:
        # Renewed in the batch's own transaction: a runner that lost its lease deletes nothing more.
        return lambda connection: records.sweep(connection, owner, _LEASE, size, rest, careful=careful)

    if not (yield lease):
        return report(busy=True)
    rest: Any = None
    careful = False
    try:
        while limit is None or deleted < limit:
            try:
                swept = yield delete(batch if limit is None else min(batch, limit - deleted))
            except Exception as error:
                if careful or not Verdict(error, settings.dialect).is_busy:
                    raise
                careful = True  # the same batch again, past the rows that somebody holds
                continue
            rest, careful = swept.rest, False
            if swept.deleted:
                deleted, batches = deleted + swept.deleted, batches + 1
                if progress is not None:
                    progress(deleted)
            if rest is None:
                break
            if swept.deleted and pause:
                yield pause.total_seconds()
    finally:
        try:
            yield lambda connection: records.release(connection, owner)
        except Exception as error:  # what is being raised matters more, and the lease runs out by itself
            if settings.dialect.fault(error) is Fault.DENIED:  # this role may not delete, or not even the lease
                with suppress(Exception):
                    yield lambda connection: records.renew(connection, owner, 0)
    return report()


def _checked(settings: Settings, batch: int, limit: int | None, pause: timedelta, progress: Progress | None) -> Any:
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 100_000:
        raise ValueError(f"batch must be 1 to 100000 rows, not {batch!r}")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit must be a positive number of rows or None, not {limit!r}")
    if not isinstance(pause, timedelta) or not timedelta() <= pause <= LONGEST_WAIT:
        raise ValueError(f"pause must be between zero and {LONGEST_WAIT}, a timedelta, not {pause!r}")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress= takes a function of the rows deleted so far, not {progress!r}")
    refuse_async(progress, "progress")
    return _steps(settings, batch, limit, pause, progress)


def _batch(settings: Settings, step: Any) -> Any:
    return alone(settings, step, options=settings.dialect.purge_options)


def purge(
    settings: Settings, *, batch: int, limit: int | None, pause: timedelta, progress: Progress | None
) -> PurgeReport:
    """Run the steps; see `IdemTable.purge`."""
    steps = _checked(settings, batch, limit, pause, progress)
    resume: Any = steps.send
    value: Any = None
    while True:
        try:
            step = resume(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            if isinstance(step, float):
                # The `pause=` that the caller asked for: so long the disk is others'. No transaction is open here.
                time.sleep(step)
            else:
                value = _batch(settings, step)
            resume = steps.send
        except BaseException as error:
            resume, value = steps.throw, error


async def apurge(
    settings: Settings, *, batch: int, limit: int | None, pause: timedelta, progress: Progress | None
) -> PurgeReport:
    """Run the steps; see `AsyncIdemTable.purge`."""
    steps = _checked(settings, batch, limit, pause, progress)
    resume: Any = steps.send
    value: Any = None
    while True:
        try:
            step = resume(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                value = await _batch(settings, step)
            resume = steps.send
        except BaseException as error:
            resume, value = steps.throw, error

"""The heart: given the row that is there, what may this request do? Pure; everything else obeys."""

from __future__ import annotations

from datetime import datetime

from .model import Decision, InProgress, Mismatch, Replay, Request, Reraise, Status, Stored, TakeOver, Won


def decide(stored: Stored | None, request: Request, now: datetime) -> Decision:
    """Say what `request` may do, given the row that stands for its key.

    Args:
        stored: the row as read, or ``None`` if there is none.
        request: the call.
        now: the database's time when the row was read. Never the application's: two machines disagree.

    Returns:
        `Won`: run. `Replay`, `Reraise`: answer from the row. `InProgress`, `Mismatch`: refuse.
        `TakeOver`: the row has expired; take it from its owner and run.
    """
    if stored is None:
        return Won()
    record = stored.record

    # Before expiry: a row that was committed without a result says that a function broke out of its transaction and
    # may have left half an effect. Time does not heal that, so no ttl may let it run again; a person must (forget).
    if record.status is Status.IN_PROGRESS:
        return InProgress(stored)

    # Before the payload: an expired key is a new key, whoever used it for what.
    if record.expires_at <= now:
        return TakeOver(stored)

    # Only where both sides have one: a fingerprint of NULL was written by a call that checks no payload.
    if None not in (record.fingerprint, request.fingerprint) and record.fingerprint != request.fingerprint:
        return Mismatch(stored)

    match record.status:
        case Status.COMPLETED | Status.SPENT:
            return Replay(stored)
        case Status.FAILED:
            return Reraise(stored)
        case _:
            return InProgress(stored)

"""The heart: given the row that is there, what may this request do? Pure; everything else obeys."""

from __future__ import annotations

from datetime import datetime

from .errors import ExpiredTokenError, SpentTokenError, UnknownTokenError
from .fingerprint import VERSIONS
from .model import (
    EXCEPTION,
    Decision,
    Mismatch,
    Newer,
    Refuse,
    Replay,
    Request,
    Reraise,
    Status,
    Stored,
    TakeOver,
    Unfinished,
    Won,
)


def decide(stored: Stored | None, request: Request, now: datetime) -> Decision:
    """Say what `request` may do, given the row that stands for its key.

    Args:
        stored: the row as read, or ``None`` if there is none.
        request: the call.
        now: the database's time when the row was read. Never the application's: two machines disagree.

    Returns:
        `Won`: run. `Replay`, `Reraise`: answer from the row. `Unfinished`, `Newer`, `Mismatch`: refuse.
        `TakeOver`: the row has expired; take it from its owner and run.
    """
    if stored is None:
        return Won()
    record = stored.record

    # Before expiry: a row that was committed without a result says that a function broke out of its transaction and
    # may have left half an effect. Time does not heal that, so no ttl may let it run again; a person must (forget).
    if record.status is Status.IN_PROGRESS:
        return Unfinished(stored)
    if record.status is Status.UNKNOWN:
        return Newer(stored)

    # Before the payload: an expired key is a new key, whoever used it for what.
    # But not a row of this very call, whose COMMIT had arrived while only the answer was lost.
    if record.expires_at <= now and not stored.is_of(request):
        return TakeOver(stored)

    if (refusal := _compared(stored, request)) is not None:
        return refusal

    match record.status:
        case Status.COMPLETED | Status.SPENT:
            return Replay(stored)
        case Status.FAILED:
            return Reraise(stored)
        case _:
            return Unfinished(stored)


def decide_token(stored: Stored | None, request: Request, *, replay: bool) -> Decision:
    """Say what a redemption may do that found its token not to be had, given the row that stands for the token.

    Args:
        stored: the row as read, with the database's time, or ``None`` if there is none.
        request: the redemption; its tenant is the subject.
        replay: whether a second use may have the first one's result.

    Returns:
        `Won`: it is to be had after all, try again. `Replay`, `Reraise`: answer from the row. `Unfinished`, `Newer`,
        `Refuse`: refuse.
    """
    # Before everything else: to another subject even the state of a token is nothing to know.
    if stored is None or stored.record.tenant != request.tenant:
        return Refuse(UnknownTokenError)
    record = stored.record

    # Its COMMIT had arrived and only the answer was lost. Neither the time since then nor replay=False may turn what
    # this very call has done into a refusal.
    settling = stored.is_of(request)

    match record.status:
        case Status.IN_PROGRESS:
            return Unfinished(stored)
        case Status.UNKNOWN:
            return Newer(stored)
        case Status.ISSUED | Status.SPENT if record.expires_at <= stored.now and not settling:
            return Refuse(ExpiredTokenError)
        case Status.ISSUED:
            return Won()
        case Status.SPENT if not settling and not replay:
            return Refuse(SpentTokenError)
        case Status.SPENT if not settling and (refusal := _compared(stored, request)) is not None:
            return refusal if isinstance(refusal, Newer) else Refuse(SpentTokenError)
        # Spent by an exception too: it has the token's own time, which counts from issuing, and no longer one.
        case Status.SPENT:
            return Reraise(stored) if record.codec == EXCEPTION else Replay(stored)
        case _:
            return Refuse(UnknownTokenError)


def _compared(stored: Stored, request: Request) -> Mismatch | Newer | None:
    """Say what keeps a request from being the one of the row, in the version of the row's own fingerprint."""
    theirs, ours = stored.record.fingerprint, request.fingerprint
    if theirs is None or ours is None:  # written, or asked, by a call that checks no payload
        return None
    if (version := theirs[0]) != ours[0]:
        if version not in VERSIONS:
            return Newer(stored)
        ours = None if request.in_version is None else request.in_version(version)
    return None if theirs == ours else Mismatch(stored)

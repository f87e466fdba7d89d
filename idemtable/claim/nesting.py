"""Which calls run around this one, and whose turn it is inside them.

A call made inside another one of the same table joins its transaction. Tasks and threads that were started inside
inherit the stack of calls, so several may want to join at once, and an outer call may end while they do:

- One at a time. Two savepoints of one connection cannot interleave: the rollback of one would undo the other. Each call
  that is running has a **door**, through which one call comes in after the other; so has a session that callers share.
- A call that ends closes its door first, then waits for whoever is inside. Who was waiting for a turn is sent away and
  has run nothing; who comes later finds no call to join, and is one of its own.
"""

from __future__ import annotations

import asyncio
import dis
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..binding import is_async
from ..errors import ReentrantCallError
from .door import Door

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..model import Request

_innermost: ContextVar[Frame | None] = ContextVar("idemtable_frame", default=None)

_DOOR: Final = "idemtable_door"
"""Where a session keeps its door, among its attributes: it goes with the session, and threads may ask for it at once. Not
in its ``info``, which is made when it is first asked for."""


_process = object()
"""Another one after a fork: the connection of a call that was running belongs to the parent, and the child joins none."""


def _forked() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


class Holder(NamedTuple):
    """Whose code a block is part of."""

    frame: FrameType
    by_hand: bool
    """Whether it called ``__enter__``, and no ``with`` says where the block ends."""


@dataclass(eq=False, slots=True)
class Frame:
    """One running call: its table, its key's id, the session it works in."""

    nest: tuple[Any, ...]
    id: bytes
    session: Session
    joinable: Any
    """What calls inside get: the session, or the AsyncSession round it."""
    outer: Frame | None
    door: Door
    holder: Holder | None
    """Of the block, where the call is one; functions need none."""
    held: Callable[[], bool] | None
    """Whether a block's transaction still is there. Nothing says that whoever has ended it leaves the block too, and what
    came in later would be committed by nobody; a function ends, and is told."""
    loop: asyncio.AbstractEventLoop | None
    process: object

    @property
    def is_over(self) -> bool:
        """Whether the call has ended, or what it was in."""
        return self.door.is_over or (self.held is not None and not self.held())

    def is_around(self) -> bool:
        """Say whether code that runs here and now is inside this call."""
        if not self.door.is_open or self.process is not _process or self.is_over:
            return False
        return self.holder is None or _is_running(self.holder.frame)

    def is_joined_from_here(self) -> bool:
        """Say whether a call made by code that runs here and now can join this call."""
        # A thread with a loop of its own has inherited the context, and cannot use this connection.
        return self.is_around() and not (is_async(self.joinable) and self.loop is not asyncio._get_running_loop())


def _is_running(block: FrameType) -> bool:
    """Say whether a block's own code runs, and not that of whoever reads the generator which holds it.

    Reader and generator share one context, so the stack of calls looks alike to both. Only while the generator's code
    runs is its frame among those that lead here.
    """
    if not block.f_code.co_flags & (CO_GENERATOR | CO_ASYNC_GENERATOR):
        return True
    return any(here is block for here in callers())


def callers() -> Iterator[FrameType]:
    """Yield the Python frames that lead here, also through ``run_sync``: it runs what it is given on a stack of its own."""
    here: FrameType | None = sys._getframe()
    greenlet = sys.modules.get("greenlet")
    stack = greenlet.getcurrent() if greenlet else None
    while True:
        while here is not None:
            yield here
            here = here.f_back
        if (stack := stack and stack.parent) is None:
            return
        here = stack.gr_frame


def made(
    nest: tuple[Any, ...],
    request: Request,
    session: Session,
    joinable: Any,
    *,
    owned: bool,
    holder: Holder | None = None,
    held: Callable[[], bool] | None = None,
) -> Frame:
    """Return the frame of a call that is to be entered, with a door that is open.

    Args:
        nest: of its table.
        request: what it asks.
        session: the sync Session it works in.
        joinable: what calls inside get.
        owned: whether the session ends with it.
        holder: of a block.
        held: says whether the transaction of a block still is there.
    """
    door = Door()
    if owned:
        # Who was handed the session without having inherited the stack comes in by the same door, now and too late.
        vars(session)[_DOOR] = door
    outer = _innermost.get()
    if outer is not None:
        outer = _live(outer)
    loop = asyncio._get_running_loop()
    return Frame(nest, request.id, session, joinable, outer, door, holder, held, loop, _process)


def push(frame: Frame) -> None:
    """Enter a call. Whoever does holds the frame already: Ctrl-C may come at any line, and who else would leave it?"""
    _innermost.set(frame)


def _is_in_with(frame: FrameType) -> bool:
    """Say whether what a Python frame does now is to enter a ``with`` statement, and not to call ``__enter__``."""
    code, at = frame.f_code.co_code, frame.f_lasti
    while at > 0 and code[at] == _CACHE:
        at -= 2
    return dis.opname[code[at]] == "BEFORE_WITH" or dis.opname[code[at - 2]] == "LOAD_SPECIAL"  # since Python 3.14


_CACHE: Final = dis.opmap.get("CACHE", 0)


def pop(frame: Frame) -> None:
    """Leave a call."""
    frame.door.is_over = True
    frame.door.close()
    frame.holder = frame.held = None
    # Not by the token of `set`: a block may be left in another context than it was entered in (a test's fixture).
    _innermost.set(_live(_innermost.get()))


def _live(frame: Frame | None) -> Frame | None:
    """Return the innermost call that has not ended; those that have are let go with their sessions, at any depth."""
    while frame is not None and frame.is_over:
        frame = frame.outer
    if frame is not None and frame.outer is not None:
        frame.outer = _live(frame.outer)
    return frame


def holder(depth: int, *, awaits: bool = False) -> Holder:
    """Return who holds a block: the Python frame `depth` frames up from here, past an ExitStack's own.

    Args:
        awaits: whether it awaits the block's entrance, where nothing tells a statement from a call.
    """
    frame = sys._getframe(depth)
    by_hand = not awaits and not _is_in_with(frame)
    while frame.f_back is not None and frame.f_globals.get("__name__") == "contextlib":
        frame, by_hand = frame.f_back, False
    return Holder(frame, by_hand)


def enclosing(nest: tuple[Any, ...], *, for_block: bool = False) -> Frame | None:
    """Return the innermost running call of a table that code here is inside of, or ``None``.

    Args:
        nest: of the table.
        for_block: whether a block asks. It is not inside of one that was entered by hand, whose end nobody can foresee:
            it may come before its own.
    """
    frame = _innermost.get()
    while frame is not None:
        by_hand = frame.holder is not None and frame.holder.by_hand
        if frame.nest == nest and frame.is_joined_from_here() and not (for_block and by_hand):
            return frame
        frame = frame.outer
    return None


def around() -> Iterator[Frame]:
    """Yield the running calls that code here is inside of, the innermost first."""
    frame = _innermost.get()
    while frame is not None:
        if frame.is_around():
            yield frame
        frame = frame.outer


def door_of(session: Session) -> Door:
    """Return the door by which a call joins a session that it was given."""
    frame = _innermost.get()
    while frame is not None:
        if frame.session is session and frame.is_joined_from_here():
            return frame.door
        frame = frame.outer
    door: Door = vars(session).setdefault(_DOOR, Door())
    return door


def is_within(session: Session) -> bool:
    """Say whether code that runs here is inside a call that works in a session, or was started there."""
    frame = _innermost.get()
    while frame is not None and frame.session is not session:
        frame = frame.outer
    return frame is not None


def is_left_over(session: Session) -> bool:
    """Say whether a session's call ended before one inside it did: it may have begun again, with nobody to end it."""
    door: Door | None = vars(session).get(_DOOR)
    return door is not None and door.is_over


def refuse_reentry(
    nest: tuple[Any, ...],
    request: Request,
    session: Session,
    holds: Callable[[Request, bytes], bool],
) -> None:
    """Raise ReentrantCallError if a call around this one holds the same key: waiting for it would never end.

    Args:
        nest: of the table.
        request: what is asked.
        session: in which it would be done. Whoever works in it too is around this call, even if it is ending.
        holds: whether a row is what the request asks for; see `Kind.holds`.
    """
    frame = _innermost.get()
    while frame is not None:
        around = frame.is_joined_from_here() or (frame.session is session and not frame.is_over)
        if around and frame.nest == nest and holds(request, frame.id):
            raise inside_itself(request.scope)
        frame = frame.outer


def inside_itself(scope: str) -> ReentrantCallError:
    """Return the error for a call that would wait for the one around it."""
    return ReentrantCallError(
        f"{scope} was called inside itself with the same key: give the inner call a key of its own", scope=scope
    )

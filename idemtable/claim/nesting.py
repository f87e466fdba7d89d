"""Which calls run around this one: the stack that makes an inner call join and a key not wait for itself."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..errors import ReentrantCallError

if TYPE_CHECKING:
    from ..model import Request

_innermost: ContextVar[Frame | None] = ContextVar("idemtable_frame", default=None)


@dataclass(eq=False, slots=True)
class Frame:
    """One running call: its table, its key's id, the session it works in."""

    nest: tuple[Any, ...]
    id: UUID
    session: Any
    outer: Frame | None
    open: bool = True
    # A task or thread started inside a call inherits the stack. Its own calls join one after the other: two savepoints
    # of one connection cannot interleave, the rollback of one would undo the other.
    lock: threading.Lock = field(default_factory=threading.Lock)
    alock: asyncio.Lock | None = None
    inside: int = 0
    """How many calls are running inside this one."""
    owned: bool = True
    """Whether the session ends with this call, and nobody else may use what is left of it."""

    def is_left_over(self) -> bool:
        """Say whether the call ended before one inside it did, whose session may have begun again with nobody to end it."""
        return self.owned and not self.open

    def turn(self) -> asyncio.Lock:
        """Return the lock by which the calls of other tasks take turns."""
        if self.alock is None:
            self.alock = asyncio.Lock()
        return self.alock


def push(nest: tuple[Any, ...], id: UUID, session: Any, owned: bool = True) -> Frame:
    """Enter a call."""
    frame = Frame(nest, id, session, _innermost.get(), owned=owned)
    _innermost.set(frame)
    return frame


def pop(frame: Frame) -> None:
    """Leave a call."""
    frame.open = False
    # Not by the token of `set`: a block may be left in another context than it was entered in (a test's fixture).
    if _innermost.get() is frame:
        _innermost.set(frame.outer)


def enclosing(nest: tuple[Any, ...]) -> Frame | None:
    """Return the innermost running call of a table, or ``None``."""
    frame = _innermost.get()
    while frame is not None:
        if frame.open and frame.nest == nest:
            return frame
        frame = frame.outer
    return None


def refuse_reentry(nest: tuple[Any, ...], request: Request) -> None:
    """Raise ReentrantCallError if a call around this one holds the same key: waiting for it would never end."""
    frame = _innermost.get()
    while frame is not None:
        if frame.open and frame.nest == nest and frame.id == request.id:
            raise ReentrantCallError(
                f"{request.scope} was called inside itself with the same key: give the inner call a key of its own",
                scope=request.scope,
            )
        frame = frame.outer

"""Effects that no rollback takes back: what a transactional function does beside its transaction, heard while a test runs.

Two things can be heard: a socket that is connected, and a statement on another engine. A socket that was connected before,
a datagram that is sent without, a file, a process, and what is connected in C (libpq, uvloop), cannot.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import CodeType
from typing import Any, Final, NamedTuple

import sqlalchemy
from sqlalchemy import Engine, Pool, event

from ..claim import nesting, run


class OutsideEffectWarning(UserWarning):
    """A transactional function has connected a socket, or used another engine: an effect that no rollback takes back.

    If the transaction is rolled back and begun again, or the call fails and is made again, that is done again too.
    """


class Effect(NamedTuple):
    """Something that was done outside."""

    what: str
    file: str
    line: int
    error: OutsideEffectWarning | None
    """What was raised at that place, where the filters make an error of the warning."""
    block: CodeType | None
    """The code that holds the block, where it was done in one."""

    @property
    def was_swallowed(self) -> bool:
        """Whether an error was raised, and neither the library nor the code round the block has seen it."""
        trace = None if self.error is None else self.error.__traceback__
        while trace is not None:
            frame, trace = trace.tb_frame, trace.tb_next
            if frame.f_globals.get("__name__") == run.__name__ or frame.f_code is self.block:
                return False
        return self.error is not None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


_heard: tuple[list[Effect], ...] = ()
"""Replaced and never changed, so that a thread may look at it while another one adds to it."""
_replacing: Final = threading.RLock()
_is_hooked = False
_connecting: ContextVar[nesting.Frame | None] = ContextVar("idemtable_connecting", default=None)
"""The call in which SQLAlchemy opens a connection, whose socket is the database's own. Where that fails, this call may open
what it likes."""


@contextmanager
def watching() -> Iterator[list[Effect]]:
    """Warn of effects outside, in all threads and tasks, while the block runs; give the list that they are put into."""
    global _heard, _is_hooked
    if not _is_hooked:
        _is_hooked = True
        sys.addaudithook(_audited)  # for good: there is no way to take one away
    effects: list[Effect] = []
    with _replacing:
        if not _heard:
            for listener in _LISTENERS:
                event.listen(*listener)
        _heard = (*_heard, effects)
    try:
        yield effects
    finally:
        with _replacing:
            _heard = tuple(one for one in _heard if one is not effects)
            if not _heard:
                for listener in _LISTENERS:
                    event.remove(*listener)


def _audited(name: str, arguments: tuple[Any, ...]) -> None:
    if _heard and name == "socket.connect":
        frame = next(nesting.around(), None)
        if frame is not None and frame is not _connecting.get():
            try:
                _tell(frame, f"a transactional function connects a socket to {arguments[1]!r}")
            except OutsideEffectWarning:
                arguments[0].close()  # who opens one closes it after an OSError, and not after this
                raise


def _about_to_connect(*_: Any) -> None:
    _connecting.set(next(nesting.around(), None))


def _connected(*_: Any) -> None:
    _connecting.set(None)


# Not the events of cursors: for whoever listens to those the library sends its statements one by one, and another way than
# in production.
def _executed(cursor: Any, statement: str, *rest: Any) -> None:
    connection = rest[-1].root_connection
    for frame in nesting.around():
        if frame.session.get_bind().dialect is not connection.dialect:
            _tell(frame, f"a transactional function uses another engine, {connection.engine.url!r}")


_LISTENERS: Final = (
    (Engine, "do_execute", lambda cursor, statement, parameters, context: _executed(cursor, statement, context)),
    (Engine, "do_executemany", lambda cursor, statement, parameters, context: _executed(cursor, statement, context)),
    (Engine, "do_execute_no_params", lambda cursor, statement, context: _executed(cursor, statement, context)),
    (Engine, "do_connect", _about_to_connect),
    (Pool, "connect", _connected),
)


def _tell(frame: nesting.Frame, what: str) -> None:
    file, line, module = _place()
    if any(one.file == file and one.line == line and one.error is None for effects in _heard for one in effects):
        return  # a warning was enough
    what = f"{what}: no rollback takes that back"
    error: OutsideEffectWarning | None = None
    try:
        warnings.warn_explicit(what, OutsideEffectWarning, file, line, module)
    except OutsideEffectWarning as raised:
        error = raised
        raise
    finally:
        block = None if frame.holder is None else frame.holder.frame.f_code
        for effects in _heard:
            effects.append(Effect(what, file, line, error, block))


_OTHERS: Final = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(__file__).parents[1],
        *sqlalchemy.__path__,
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)


def _place() -> tuple[str, int, str]:
    """Return file, line and module of the application's own code that leads here; of the nearest if there is none."""
    nearest = None
    for frame in nesting.callers():
        file = frame.f_code.co_filename
        nearest = nearest or frame
        if not file.startswith((*_OTHERS, "<frozen")):
            nearest = frame
            break
    assert nearest is not None
    return nearest.f_code.co_filename, nearest.f_lineno, nearest.f_globals.get("__name__", "?")

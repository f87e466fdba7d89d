"""A door: the way into a transaction that one call after the other may take, in threads and in tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from ..errors import InProgressError
from .verdict import begin_again


class Turn:
    """One call's stay behind a door, or its wish for one; as a context manager it ends the stay."""

    __slots__ = ("_door", "sent_away", "wake")

    def __init__(self, door: Door, wake: Callable[[], object]) -> None:
        self._door = door
        self.wake = wake
        self.sent_away = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """Leave, and let the next one in."""
        self._door.leave(self)


class Door:
    """One call at a time may be inside, and nobody comes in once it is closed.

    Whoever waits is woken in its own way, so that threads and the tasks of a loop can stand in one queue.
    """

    __slots__ = ("_emptied", "_inside", "_mutex", "_queue", "is_open", "is_over")

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._inside: Turn | None = None
        self._queue: list[Turn] = []  # of few, and most calls have none: an empty deque is ten times as large
        self._emptied: Callable[[], object] | None = None
        self.is_open = True
        self.is_over = False
        """Whether what lies behind it has ended; it may have before whoever was inside did."""

    @property
    def is_occupied(self) -> bool:
        """Whether a call is inside."""
        return self._inside is not None

    # --- coming in --------------------------------------------------------------------------------------------------------

    def enter(self, wait: float, scope: str) -> Turn | None:
        """Come in, waiting for a turn if need be.

        Args:
            wait: at most so many seconds.
            scope: of the call, for messages.

        Returns:
            The turn, or ``None`` where the door was closed already.

        Raises:
            RetryTransactionError: it was closed meanwhile. InProgressError: the turn did not come.
        """
        event = threading.Event()
        turn = Turn(self, event.set)
        if (waits := self._ask(turn)) is None:
            return None
        if waits:
            try:
                event.wait(wait)
            except BaseException:
                turn.end()
                raise
            self._granted(turn, scope)
        return turn

    async def aenter(self, wait: float, scope: str) -> Turn | None:
        """Come in; see `enter`."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        turn = Turn(self, _waking(loop, woken))
        if (waits := self._ask(turn)) is None:
            return None
        if waits:
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):  # not wait_for, which swallows a cancellation on Python 3.11
                        await woken
            except BaseException:
                turn.end()
                raise
            self._granted(turn, scope)
        return turn

    def _ask(self, turn: Turn) -> bool | None:
        """Take the turn if it is free. Say whether it has to be waited for; ``None``: it will never come."""
        with self._mutex:
            if not self.is_open:
                return None
            if self._inside is None:
                self._inside = turn
                return False
            self._queue.append(turn)
            return True

    def _granted(self, turn: Turn, scope: str) -> None:
        with self._mutex:
            if self._inside is turn:
                return
            if turn in self._queue:
                self._queue.remove(turn)
        if turn.sent_away:
            raise begin_again(scope)
        raise InProgressError(
            f"{scope}: another call inside the same transaction is still at work: calls inside a call run one after the "
            f"other. Do not let one wait for the other",
            scope=scope,
            retry_after=1.0,
        )

    def leave(self, turn: Turn) -> None:
        """End a turn, or the wait for it; the next one's begins."""
        with self._mutex:
            if self._inside is not turn:
                if turn in self._queue:
                    self._queue.remove(turn)
                return
            self._inside = self._queue.pop(0) if self._queue else None
            wake = self._emptied if self._inside is None else self._inside.wake
        if wake is not None:
            wake()

    # --- closing ----------------------------------------------------------------------------------------------------------

    def close(self) -> bool:
        """Let nobody in any more, and send away who waits; say whether nobody is inside."""
        if self.is_open:  # else nobody can have come to wait since
            with self._mutex:
                self.is_open = False
                waiting, self._queue = self._queue, []
                for turn in waiting:
                    turn.sent_away = True
            for turn in waiting:
                turn.wake()
        return self._inside is None

    def shut(self, wait: float) -> None:
        """Close, and wait at most so many seconds until nobody is inside."""
        if not self.close():
            event = threading.Event()
            self._emptied = event.set
            if self.is_occupied:
                event.wait(wait)

    async def ashut(self, wait: float) -> None:
        """Close and wait; see `shut`."""
        if not self.close():
            loop = asyncio.get_running_loop()
            woken = loop.create_future()
            self._emptied = _waking(loop, woken)
            if self.is_occupied:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await woken


def _waking(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> Callable[[], None]:
    """Return what ends a future from whatever thread."""

    def finish() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is over, and with it whoever waited
            loop.call_soon_threadsafe(finish)

    return wake

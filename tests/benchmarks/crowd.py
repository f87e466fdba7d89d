"""Clients that call all the time, in processes of their own: what the benchmark itself does costs them nothing."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkContext
from types import TracebackType
from typing import Any, Final, Self

_FORKS: Final[ForkContext] = multiprocessing.get_context("fork")
_MOST: Final = 500_000
"""Calls of one client that are remembered."""


class Crowd:
    """So many clients, each of which calls what it is the turn of, until the end of the `with` statement.

    Args:
        number: of clients.
        made: called for each of them, gives the functions to be called.
        threads: of one process, which are so many of the clients.
    """

    def __init__(self, number: int, made: Callable[[], list[Callable[[], object]]], threads: int = 1) -> None:
        self._turn = _FORKS.Value("i", 0)
        self._counts = [_FORKS.RawValue("q", 0) for _ in range(number)]
        self._times = [_FORKS.RawArray("f", _MOST) for _ in range(number)]
        shares = [range(n, n + threads) for n in range(0, number, threads)]
        self._workers = [_FORKS.Process(target=self._works, args=(made, share)) for share in shares]

    def _works(self, made: Callable[[], list[Callable[[], object]]], share: range) -> None:
        with ThreadPoolExecutor(len(share)) as pool:
            for done in [pool.submit(self._work, made, number) for number in share]:
                done.result()

    def _work(self, made: Callable[[], list[Callable[[], object]]], number: int) -> None:
        calls, turn, counted, times = made(), self._turn, self._counts[number], self._times[number]
        while (now := turn.value) >= 0:
            began = time.perf_counter()
            calls[now]()
            times[counted.value % _MOST] = time.perf_counter() - began
            counted.value += 1

    def turn_to(self, number: int) -> None:
        """Call another one of the functions from now on; come back when those that began before are over."""
        self._turn.value = number
        before = self.mark()[1]
        self._await(lambda: all(now > then for now, then in zip(self.mark()[1], before, strict=True)))

    def _await(self, true: Callable[[], bool]) -> None:
        while not true():
            if any(worker.exitcode for worker in self._workers):
                raise RuntimeError("a client has ended by an error, which it has printed")
            # The counts are numbers in shared memory and wake nobody: a lock round them would be part of what is measured.
            time.sleep(0.001)

    def mark(self) -> tuple[float, list[int]]:
        """The time, and how often each process has called."""
        return time.perf_counter(), [count.value for count in self._counts]

    def since(self, mark: tuple[float, list[int]]) -> tuple[float, list[float]]:
        """How many calls a second there were since then, and how long each of them took, in seconds."""
        began, before = mark
        now, counts = self.mark()
        pairs = zip(before, counts, self._times, strict=True)
        taken = [times[n % _MOST] for low, high, times in pairs for n in range(low, high)]
        return len(taken) / (now - began), taken

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        self._await(lambda: all(self.mark()[1]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turn.value = -1
        for worker in self._workers:
            worker.join()


def slowest(times: list[float]) -> Any:
    """The time that one in a hundred takes longer than."""
    return sorted(times)[int(len(times) * 0.99)] if times else float("nan")

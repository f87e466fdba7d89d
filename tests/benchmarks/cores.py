"""Cores: what is far away has none of the client's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers import watchdog


@contextmanager
def apart(*others: int) -> Iterator[None]:
    """Keep a core for this thread inside, and leave the others to processes and their children.

    What is far away does not empty the caches of a client that waits for it. On the client's core it does, and what the
    client does next takes half as long again: measured at 1 ms, 676 microseconds of CPU for a call in place of 469.

    Args:
        others: the processes' numbers. Where there is one core alone, or no way to choose, nothing is changed.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    mine = {min(cores)}
    if cores == mine:
        yield
        return
    try:
        _put(others, cores - mine)
        os.sched_setaffinity(0, mine)
        yield
    finally:
        os.sched_setaffinity(0, cores)
        _put(others, cores)


def _put(processes: tuple[int, ...], cores: Set[int]) -> None:
    for process in processes:
        for one in watchdog.family(process):
            for thread in _threads(one):
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.sched_setaffinity(thread, cores)


def _threads(process: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(name) for name in os.listdir(Path("/proc") / str(process) / "task")]
    return []

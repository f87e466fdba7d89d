"""How many requests with one key may wait in a process: each holds a connection of the pool, and a thread or a task."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import InProgressError


class Waiters:
    """Counts the requests of each key.

    Args:
        most: how many may wait behind the one that runs.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._mutex = threading.Lock()
        self._here: dict[bytes, int] = {}

    @contextmanager
    def one(self, id: bytes | None) -> Iterator[None]:
        """Be one of them inside; ``None`` is nobody's key.

        Raises:
            InProgressError: there are enough already.
        """
        if id is None:
            yield
            return
        with self._mutex:
            here = self._here.get(id, 0)
            if here > self._most:
                raise InProgressError(f"{here} requests with this key are at work or waiting already", retry_after=1.0)
            self._here[id] = here + 1
        try:
            yield
        finally:
            with self._mutex:
                if self._here[id] == 1:
                    del self._here[id]
                else:
                    self._here[id] -= 1

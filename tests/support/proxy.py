"""A TCP proxy that cuts one connection at a moment the test has chosen, and says whether it did."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
_CHUNK = 65536


class Way(Enum):
    """The direction of a chunk."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class Manner(Enum):
    """How much of the chunk at which a line is cut is still delivered, and how the line ends."""

    BEFORE = "before a chunk"
    HALF = "in the middle of a chunk"
    AFTER = "after a chunk"
    RESET = "after a chunk, by a reset"
    SILENT = "before a chunk, and nobody is told of it for a while"


SILENCE = 0.3
"""Seconds."""


@dataclass
class Cut:
    """The moment: the `number`-th chunk that goes this `way` and for which `mark` holds."""

    way: Way
    number: int = 1
    mark: Callable[[bytes], bool] | None = None
    manner: Manner = Manner.BEFORE
    hit: threading.Event = field(default_factory=threading.Event)


def is_commit(chunk: bytes) -> bool:
    """Whether a client says COMMIT, in either protocol; ``SET AUTOCOMMIT`` is something else."""
    return b"COMMIT" in chunk.upper().replace(b"AUTOCOMMIT", b"")


class Proxy:
    """Passes connections on to a server until it cuts them. As a context manager it ends with all of them.

    `listener` is told of each chunk before that is passed on; what goes to a client is sent so many bytes at a time.
    """

    def __init__(
        self, target: int, listener: Callable[[Way, bytes], None] | None = None, *, at_a_time: int = _CHUNK
    ) -> None:
        self._target = target
        self._at_a_time = at_a_time
        self._listen = listener or (lambda way, chunk: None)
        self._lock = threading.Lock()
        self._cut: Cut | None = None
        self._seen = 0
        self._committing: set[int] = set()
        self._asking: set[int] = set()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.hits = 0
        self.round_trips = 0
        """How often a client has waited for its server: what it sends before an answer comes is one question."""
        self._start(self._accept)

    # --- what a test says -----------------------------------------------------------------------------------------

    def cut_at(self, way: Way, number: int, manner: Manner = Manner.BEFORE) -> Cut:
        """Cut at the `number`-th chunk from now on that goes one way."""
        return self._arm(Cut(way, number, manner=manner))

    def cut_before_commit(self) -> Cut:
        """Cut when a client sends COMMIT: the server never hears of it."""
        return self._arm(Cut(Way.TO_SERVER, mark=is_commit))

    def cut_after_commit(self) -> Cut:
        """Cut when the server answers a COMMIT: it has been executed, and the client never hears of it."""
        return self._arm(Cut(Way.TO_CLIENT, mark=is_commit))

    def let_pass(self) -> None:
        """Forget a cut that has not hit."""
        with self._lock:
            self._cut = None

    def _arm(self, cut: Cut) -> Cut:
        with self._lock:
            self._cut, self._seen = cut, 0
            self._committing.clear()
        return cut

    # --- what the proxy does ---------------------------------------------------------------------------------------

    def _start(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection((HOST, self._target))
                except OSError:  # the server is down: so is the proxy
                    client.close()
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open |= {client, server}
                self._start(self._pass, Way.TO_SERVER, client, server)
                self._start(self._pass, Way.TO_CLIENT, server, client)

    def _pass(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        pair = id(source if way is Way.TO_SERVER else target)
        with suppress(OSError):
            while chunk := source.recv(_CHUNK):
                self._count(way, pair)
                if (cut := self._at_the_moment(way, chunk, pair)) is not None:
                    self._deliver(cut.manner, chunk, source, target)
                    break
                self._listen(way, chunk)
                step = self._at_a_time if way is Way.TO_CLIENT else _CHUNK
                for at in range(0, len(chunk), step):
                    target.sendall(chunk[at : at + step])
        self._end(source, target)

    def _deliver(self, manner: Manner, chunk: bytes, source: socket.socket, target: socket.socket) -> None:
        if manner is Manner.HALF:
            target.sendall(chunk[: len(chunk) // 2])
        elif manner in (Manner.AFTER, Manner.RESET):
            target.sendall(chunk)
        elif manner is Manner.SILENT:
            time.sleep(SILENCE)
        if manner is Manner.RESET:
            for end in (source, target):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)  # wakes whoever reads, and else the reset would wait for them
                end.close()

    def _count(self, way: Way, pair: int) -> None:
        with self._lock:
            if way is Way.TO_CLIENT:
                self._asking.discard(pair)
            elif pair not in self._asking:
                self._asking.add(pair)
                self.round_trips += 1

    def _at_the_moment(self, way: Way, chunk: bytes, pair: int) -> Cut | None:
        with self._lock:
            cut = self._cut
            if cut is None:
                return None
            if cut.mark is not None and cut.way is Way.TO_CLIENT:
                if way is Way.TO_SERVER:
                    if cut.mark(chunk):
                        self._committing.add(pair)
                    return None
                counts = pair in self._committing
            else:
                counts = way is cut.way and (cut.mark is None or cut.mark(chunk))
            if not counts or way is not cut.way:
                return None
            self._seen += 1
            if self._seen < cut.number:
                return None
            self._cut = None
            self.hits += 1
            cut.hit.set()
            return cut

    def _end(self, *ends: socket.socket) -> None:
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        with self._lock:
            self._open -= set(ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end(self._listener, *self._open)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "the proxy does not end"

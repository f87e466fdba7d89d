"""A longer wire to a server: a proxy in a process of its own, which holds back what passes and counts round trips.

A round trip is one that the client waits for: something it sends that the server answers. Whatever else it sends before
that answer has reached it, in however many packets, belongs to the same one.

Of its own, because a proxy on a thread would share the interpreter with the client that is measured. This file runs as that
process's program, with nothing of the project's on its path.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any, Self

HOST = "127.0.0.1"
APART = 0.005
"""Seconds that an answer is held back while round trips are counted. It must be longer than a client can be kept from its
core between two packets that it sends without waiting, or they would count as two."""

TRIES = 6
_SLACK = 29  # PR_SET_TIMERSLACK of Linux, which wakes a sleeper up to 50 microseconds late unless told otherwise


class Wire:
    """A port that leads to another one. As a context manager it ends with all of its connections.

    Args:
        target: port on this machine.
    """

    def __init__(self, target: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    @property
    def trips(self) -> int:
        """Round trips so far, over all connections."""
        return int(self._ask("trips"))

    def hold(self, to_server: float, to_client: float) -> None:
        """Hold back what passes from now on, by so many seconds each way."""
        self._ask(f"hold {to_server!r} {to_client!r}")

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the wire's process ended with code {self._process.wait()}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # which ends it
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


def stretch(wire: Wire, near: Callable[[], object], far: Callable[[], object], trip: float, times: int) -> float:
    """Set a wire so that a round trip through it takes so much longer than one without it.

    What the proxy itself takes is part of that, and differs from machine to machine.

    Args:
        wire: to set.
        near, far: make a round trip without it and through it.
        trip: seconds.
        times: that it is done with each setting that is tried; the one that comes closest is taken.

    Returns:
        How much longer it is then, in seconds.
    """
    each, found = trip / 2, []
    for _ in range(TRIES):
        wire.hold(each, each)
        added = _longer(near, far, times)
        found.append((abs(added - trip), each, added))
        each = max(0.0, each + (trip - added) / 2)
    _, each, added = min(found)
    wire.hold(each, each)
    return added


def _longer(near: Callable[[], object], far: Callable[[], object], times: int) -> float:
    """Return how much longer the one takes than the other, in the middle, done in turn."""
    took: dict[Callable[[], object], list[float]] = {near: [], far: []}
    for _ in range(times):
        for run, times_of_it in took.items():
            begin = perf_counter()
            run()
            times_of_it.append(perf_counter() - begin)
    return median(took[far]) - median(took[near])


# --- the process ----------------------------------------------------------------------------------------------------------


@dataclass
class _Line:
    """One connection: its two ends, and whether the client waits for an answer."""

    client: socket.socket
    server: socket.socket
    asked: bool = False
    ended: bool = False


@dataclass
class _Way:
    """Everything that goes one way, in order, with the moment at which it came."""

    to_server: bool
    hold: float = 0.0
    queue: deque[tuple[float, _Line, bytes]] = field(default_factory=deque)

    @property
    def due(self) -> float:
        """When the first of it may pass."""
        return self.queue[0][0] + self.hold


class _Relay:
    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self._ends: dict[Any, tuple[_Line, _Way]] = {}
        self._up, self._down = _Way(True), _Way(False)
        self._trips = 0

    def run(self) -> None:
        print(self._listener.getsockname()[1], flush=True)
        control = sys.stdin.fileno()
        while True:
            due = min((way.due for way in (self._up, self._down) if way.queue), default=None)
            timeout = None if due is None else max(0.0, due - perf_counter())
            readable = select.select([control, self._listener, *self._ends], [], [], timeout)[0]
            for one in readable:
                if one == control:
                    line = os.read(control, 4096).decode()
                    if not line:
                        return
                    self._obey(*line.split())
                elif one is self._listener:
                    self._accept()
                elif one in self._ends:
                    self._receive(one)
            now = perf_counter()
            for way in (self._up, self._down):
                while way.queue and way.due <= now:
                    _, connection, chunk = way.queue.popleft()
                    self._deliver(connection, way, chunk)

    def _obey(self, word: str, *values: str) -> None:
        if word == "hold":
            self._up.hold, self._down.hold = map(float, values)
        print(self._trips, flush=True)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection((HOST, self._target))
        except OSError:
            client.close()
            return
        line = _Line(client, server)
        for end, way in ((client, self._up), (server, self._down)):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends[end] = line, way

    def _receive(self, end: socket.socket) -> None:
        line, way = self._ends[end]
        chunk = b""
        with suppress(OSError):
            chunk = end.recv(1 << 16)
        if not chunk:
            del self._ends[end]
        elif way.to_server:
            line.asked = True
        way.queue.append((perf_counter(), line, chunk))

    def _deliver(self, line: _Line, way: _Way, chunk: bytes) -> None:
        if line.ended:
            return
        if chunk:
            if not way.to_server and line.asked:
                line.asked = False
                self._trips += 1
            with suppress(OSError):
                (line.server if way.to_server else line.client).sendall(chunk)
                return
        line.ended = True
        for end in (line.client, line.server):
            self._ends.pop(end, None)
            end.close()


if __name__ == "__main__":
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SLACK, 1, 0, 0, 0)
    _Relay(int(sys.argv[1])).run()

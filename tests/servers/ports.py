"""A free port for a server, and the question whether it answers there."""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass

HOST = "127.0.0.1"

# Not `random.random`: plug-ins seed that alike in every worker, and all workers would pick the same port.
_dice = random.SystemRandom()


@dataclass(frozen=True)
class Probe:
    """How to see that a server answers queries: what to send, and what its reply holds, from which byte on."""

    send: bytes
    reply: bytes
    offset: int = 0

    def answered(self, port: int) -> bool:
        wanted = self.offset + len(self.reply)
        received = b""
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(self.send)
            while len(received) < wanted and (part := connection.recv(wanted - len(received))):
                received += part
        return received[self.offset :] == self.reply


def free_port() -> int:
    """A port below the range from which the kernel takes the client side of connections.

    Inside that range a client that retries while the server is down may be given this very port, connect to itself, and
    then neither the client nor the restarted server works.
    """
    for _ in range(200):
        port = _dice.randrange(12000, 30000)
        with contextlib.suppress(OSError), socket.socket() as attempt:
            attempt.bind((HOST, port))
            return port
    raise RuntimeError("found no free port between 12000 and 30000")


def free_ports(count: int) -> list[int]:
    """So many, each another one."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)

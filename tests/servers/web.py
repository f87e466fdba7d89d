"""Servers of HTTP that run a module of the tests: uvicorn and gunicorn."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.servers.ports import HOST, Probe, free_port
from tests.servers.process import ServerProcess, new_home

_ROOT: Final = Path(__file__).parents[2]
_ANSWERS: Final = Probe(b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.")


@contextmanager
def serving(kind: str, application: str, environment: Mapping[str, str], *options: str) -> Iterator[tuple[int, int]]:
    """Run a server; give its port and its process, which holds its workers.

    Args:
        kind: ``uvicorn`` or ``gunicorn``.
        application: as that server names it.
        environment: beside that of the tests.
        options: of its command line.
    """
    port = free_port()
    where = ["--host", HOST, "--port", str(port)] if kind == "uvicorn" else ["--bind", f"{HOST}:{port}"]
    server = ServerProcess(
        [sys.executable, "-m", kind, application, *where, *options],
        new_home(kind),
        port,
        _ANSWERS,
        environment={"PYTHONPATH": str(_ROOT), **environment},
    )
    server.start()
    try:
        yield port, server.pid
    finally:
        server.stop()

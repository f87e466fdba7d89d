"""Processes of Python that begin with the library imported: most of what a process costs is its imports.

Each is forked from a server process which does nothing but import, so it shares with the test, and with the other ones, as
little as a program that a shell starts: no connection, no thread, no event loop.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from tests.support import PATIENCE

FORKS = multiprocessing.get_context("forkserver")
_IMPORTED = [
    "tests.support.calling_process",
    "tests.support.dying_process",
    "tests.support.migrations",
    "tests.reliability.worker",
    "tests.reliability.mutants",
    "idemtable.cli.main",
    "alembic.config",
    *("psycopg", "pymysql", "asyncpg", "asyncmy", "aiosqlite"),
]
FORKS.set_forkserver_preload([__name__, *_IMPORTED])


class Forked:
    """A process that runs a function; the test holds its ends of the pipes, as of a `subprocess.Popen`."""

    def __init__(self, run: Callable[..., object], *arguments: Any) -> None:
        theirs_in, ours_in = FORKS.Pipe(duplex=False)
        ours_out, theirs_out = FORKS.Pipe(duplex=False)
        ours_err, theirs_err = FORKS.Pipe(duplex=False)
        self._process = FORKS.Process(target=_talking, args=(theirs_in, theirs_out, theirs_err, run, arguments))
        self._process.start()
        for end in (theirs_in, theirs_out, theirs_err):
            end.close()
        self.stdin, self.stdout, self.stderr = _opened(ours_in, "w"), _opened(ours_out, "r"), _opened(ours_err, "r")

    def kill(self) -> None:
        """End it with SIGKILL; come back when it is gone."""
        self._process.kill()
        self._process.join()

    def wait(self, seconds: float = PATIENCE) -> int:
        """Come back when it has ended by itself; its exit code, which is below zero where a signal ended it."""
        self._process.join(seconds)
        assert self.code is not None, f"it has not ended after {seconds} seconds"
        return self.code

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.exitcode

    def close(self) -> None:
        self.kill()
        for file in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(BrokenPipeError):
                file.close()
        self._process.close()


def _opened(end: Connection, mode: str) -> IO[str]:
    number = os.dup(end.fileno())
    end.close()
    return os.fdopen(number, mode, buffering=1, encoding="utf-8")


def _talking(
    stdin: Connection, stdout: Connection, stderr: Connection, run: Callable[..., object], arguments: Sequence[Any]
) -> None:
    for number, end in enumerate((stdin, stdout, stderr)):
        os.dup2(end.fileno(), number)
        end.close()
    _speak()
    run(*arguments)


def _speak() -> None:
    """Let Python read and write what its descriptors now are."""
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, encoding="utf-8", closefd=False) for n in (1, 2))


def python(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python SCRIPT …` or `python -m MODULE …`, as `subprocess.run` would."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("out", "err")]
        process = FORKS.Process(target=_program, args=(list(arguments), str(cwd), dict(env), said))
        process.start()
        try:
            process.join(timeout)
            if process.exitcode is None:
                raise subprocess.TimeoutExpired(list(arguments), timeout or 0)
            code = process.exitcode
        finally:
            process.kill()
            process.join()
            process.close()
        return subprocess.CompletedProcess(list(arguments), code, *(path.read_text(encoding="utf-8") for path in said))


def _program(arguments: list[str], folder: str, environment: dict[str, str], said: list[Path]) -> None:
    for number, path in enumerate(said, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    _speak()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        # What was imported before may have kept the stdout of then (Alembic prints to it), which nobody else flushes.
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()


def in_fork(work: Callable[[], bool]) -> None:
    """Run a function in a process that is forked from this one, which has all that this one has but its threads.

    Come back when it has said that all is well.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork where there are threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(int(PATIENCE))
            status = 0 if work() else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0

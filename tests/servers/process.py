"""One server process of ours: start it, wait until it answers, kill it, start it again, stop it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import watchdog
from tests.servers.ports import Probe

STARTING = 60.0  # a cold, loaded CI machine; a healthy start takes well under a second
LOG_LINES = 30


class ServerError(RuntimeError):
    """A server of ours did not start or died; the message ends with the tail of its log."""


@dataclass
class ServerProcess:
    """The process and its folder. `home` vanishes with `stop`; until then `kill` and `start` may alternate."""

    command: Sequence[str]
    home: Path
    port: int
    probe: Probe
    stop_signal: int = signal.SIGTERM
    environment: Mapping[str, str] = field(default_factory=dict)
    user: pwd.struct_passwd | None = None
    _running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._running is None:
            raise ServerError(f"{self.command[0]} is not running")
        return self._running.pid

    @property
    def log(self) -> Path:
        return self.home / "log"

    def start(self) -> None:
        if self._running is not None:
            raise ServerError(f"{self.command[0]} runs already")
        self._running = launch(self.command, self.home, self.environment, self.user)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL for the server and its children: what a power cut leaves of it."""
        self._end(None)

    def halt(self) -> None:
        """Have it stop by itself, and keep its folder for another start."""
        self._end(self.stop_signal)

    def stop(self) -> None:
        self._end(self.stop_signal)
        remove(self.home)

    def _end(self, gently: int | None) -> None:
        if self._running is None:
            return
        running, self._running = self._running, None
        watchdog.end(running.pid, gently)
        running.wait(timeout=watchdog.PATIENCE)
        _tell("forget", running.pid)

    def _wait_until_ready(self) -> None:
        assert self._running is not None
        deadline = time.monotonic() + STARTING
        while time.monotonic() < deadline:
            if self._running.poll() is not None:
                raise self._failure(f"ended with code {self._running.returncode}")
            if self.probe.answered(self.port):
                return
            time.sleep(watchdog.POLL)
        raise self._failure(f"did not answer on port {self.port} within {STARTING:.0f} s")

    def _failure(self, what: str) -> ServerError:
        return ServerError(f"{self.command[0]} {what}\n{tail(self.log)}")


def launch(
    command: Sequence[str],
    home: Path,
    environment: Mapping[str, str],
    user: pwd.struct_passwd | None,
    gently: int = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a command in `home`, logging there, away from the terminal's signals, known to the watchdog."""
    with open(home / "log", "ab") as log:
        process = subprocess.Popen(
            command,
            cwd=home,
            env={"PATH": search_path(), "HOME": str(home), "TMPDIR": str(home), "LC_ALL": "C", **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )
    _tell("watch", process.pid, int(gently))
    return process


def run(
    command: Sequence[str], home: Path, environment: Mapping[str, str], user: pwd.struct_passwd | None = None
) -> None:
    """Run a command of the set-up to its end."""
    process = launch(command, home, environment, user)
    try:
        code = process.wait(timeout=STARTING)
    except BaseException:
        watchdog.end(process.pid, None)
        process.wait()
        raise
    finally:
        _tell("forget", process.pid)
    if code != 0:
        raise ServerError(f"{command[0]} ended with code {code}\n{tail(home / 'log')}")


def new_home(name: str, parent: str | None = None) -> Path:
    home = tempfile.mkdtemp(prefix=f"idemtable-{name}-", dir=parent)
    _tell("folder", home)
    return Path(home)


def remove(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    _tell("removed", str(home))


def tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    return "(no log)"


def search_path() -> str:
    """PATH and the places where servers live that a plain user's PATH leaves out."""
    usual = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
    return os.pathsep.join(filter(None, (os.environ.get("PATH", ""), *usual, "/opt/homebrew/bin")))


def _tell(*words: str | int) -> None:
    watcher = _watchdog_of(os.getpid())
    assert watcher.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # somebody killed the watchdog: the tests themselves can go on
        watcher.stdin.write(os.fsencode("\t".join(map(str, words)) + "\n"))


@functools.cache
def _watchdog_of(pid: int) -> subprocess.Popen[bytes]:
    # The argument is the caller's own process id, so that a fork gets a watchdog of its own.
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, str(pid)],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )
    atexit.register(_dismiss, watcher, pid)
    return watcher


def _dismiss(watcher: subprocess.Popen[bytes], pid: int) -> None:
    """At a normal exit, return only when the watchdog has cleared up what was not stopped."""
    assert watcher.stdin is not None
    watcher.stdin.close()
    if pid == os.getpid():
        watcher.wait(timeout=3 * watchdog.PATIENCE)

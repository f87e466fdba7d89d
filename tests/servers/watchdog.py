"""Ends process trees, and, run as a script, ends what its parent left behind.

A test run that is killed cannot stop its databases itself. `PR_SET_PDEATHSIG` would not do: the kernel forgets it when
a server changes its user, and it follows the thread that started the server, not the process. So one small child waits
for the pipe from its parent to close, then stops the servers and removes their folders. It uses nothing but the
standard library, because it runs as a bare script.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL = 0.01
PATIENCE = 10.0


def family(pid: int) -> list[int]:
    """The process and all its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def alive(pid: int) -> bool:
    """Whether the process still runs; a zombie holds no port and no file, and PID 1 of a container may never reap it."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return True


def end(pid: int, gently: int | None, patience: float = PATIENCE) -> None:
    """Stop the tree under `pid`: ask the head with the signal `gently` first, then SIGKILL whatever is left."""
    members = family(pid)
    if gently is not None:
        _send(pid, gently)
        _wait([pid], patience)
        members += family(pid)
    else:
        _send(pid, signal.SIGSTOP)  # no child may be born between the listing and the killing
        members = family(pid)
    for member in members:
        _send(member, signal.SIGKILL)
    _wait(members, patience)


def _wait(pids: list[int], patience: float) -> None:
    deadline = time.monotonic() + patience
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(POLL)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _stat(pid: int) -> list[str]:
    """State, parent and so on. The name before them may hold spaces and brackets, so read from the last bracket."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _parents() -> dict[int, int]:
    if not Path("/proc/self/stat").exists():
        listing = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        return {int(line.split()[0]): int(line.split()[1]) for line in listing.splitlines()}
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):  # it ended meanwhile
                parents[int(entry)] = int(_stat(int(entry))[1])
    return parents


def main() -> None:
    """Keep the list that the parent writes, one order a line; when the parent is gone, clear up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    servers: dict[int, int] = {}
    folders: dict[str, None] = {}
    parent, unread = int(sys.argv[1]), b""
    # A fork of the parent may hold the pipe open longer than the parent lives, hence the look at getppid.
    while os.getppid() == parent:
        if not select.select([0], [], [], 1.0)[0]:
            continue
        received = os.read(0, 65536)
        if not received:
            break
        *orders, unread = (unread + received).split(b"\n")
        for order in orders:
            verb, *words = os.fsdecode(order).split("\t")
            if verb == "watch":
                servers[int(words[0])] = int(words[1])
            elif verb == "forget":
                servers.pop(int(words[0]), None)
            elif verb == "folder":
                folders[words[0]] = None
            elif verb == "removed":
                folders.pop(words[0], None)
    for pid, gently in servers.items():
        end(pid, gently)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

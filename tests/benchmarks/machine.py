"""What was measured where: the machine, the versions, the day."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter

from tests.benchmarks.results import Stamp

PAGE = 8192
"""Bytes that PostgreSQL writes at least for a COMMIT."""
_TO = re.compile(r"\s*--to[ =]\S+")
"""Where a run was to put its page is a folder of whoever ran it."""


class Watch:
    """Time from here on, for the stamp of a part.

    Args:
        command: that a reader types, without its arguments.
    """

    def __init__(self, command: str) -> None:
        given = _TO.sub("", " ".join(sys.argv[1:])).strip()
        self._command = f'{command} ARGS="{given}"' if given else command
        self._begun, self._load = monotonic(), _load()

    def stamp(self, versions: Mapping[str, str], *, quick: bool = False) -> Stamp:
        """End the watch."""
        return Stamp(
            date=datetime.now(UTC).date().isoformat(),
            command=self._command,
            quick=quick,
            seconds=round(monotonic() - self._begun, 1),
            load=(self._load, _load()),
            machine=facts(),
            versions=dict(versions),
        )


def facts() -> dict[str, str]:
    """Say what decides how fast a COMMIT is."""
    found = {
        "CPU": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
    }
    if memory := _field("/proc/meminfo", "MemTotal"):
        found["memory"] = f"{int(memory.split()[0]) / 2**20:.0f} GiB"
    if hasattr(os, "O_DSYNC"):
        found["disk"] = f"a write of 8 KiB that must reach it takes {_write():.0f} µs"
    return found


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Give the versions of Python and of the packages that are there."""
    found = {"Python": platform.python_version()}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _load() -> float:
    with suppress(OSError):
        return round(os.getloadavg()[0], 2)
    return 0.0


def _field(path: str, name: str) -> str:
    with suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
            if line.partition(":")[0].strip() == name:
                return line.partition(":")[2].strip()
    return ""


def _write(times: int = 50) -> float:
    """Return the microseconds of a write that the file system reports when the disk has it."""
    took = []
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(PAGE))
        file.flush()
        handle = os.open(file.name, os.O_WRONLY | os.O_DSYNC)
        try:
            for _ in range(times):
                begin = perf_counter()
                os.pwrite(handle, bytes(PAGE), 0)
                took.append((perf_counter() - begin) * 1e6)
        finally:
            os.close(handle)
    return median(took)

"""The folder where unpacked servers and prepared data directories stay from one test run to the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache() -> Path:
    chosen = os.environ.get("IDEMTABLE_TEST_CACHE")
    return Path(chosen).absolute() if chosen else Path(__file__).parents[2] / ".cache" / "servers"


def once(name: str, fill: Callable[[Path], None]) -> Path:
    """A folder of the cache, filled by the process that comes first; the others wait for it.

    Filled beside its final place and renamed, so that a process that dies leaves no half of it.
    """
    ready = cache() / name
    if not ready.exists():
        ready.parent.mkdir(parents=True, exist_ok=True)
        with open(ready.with_name(f".{name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not ready.exists():
                draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=ready.parent))
                try:
                    fill(draft)
                    draft.chmod(0o755)
                    draft.rename(ready)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
    return ready

"""Data directories of MySQL and MariaDB, made once and copied: to make one takes longer than to start the server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.servers.cache import once
from tests.servers.debian import Install
from tests.servers.process import new_home, remove


def copy(install: Install, program: str, data: Path, make: Callable[[Path, Path], None]) -> None:
    """Copy what `make` has put into a folder that does not exist yet; its first argument is a home to do it in."""

    def fill(folder: Path) -> None:
        home = new_home("data")
        try:
            make(home, folder / "data")
        finally:
            remove(home)
        for path in folder.rglob("*"):  # another user may share the cache
            path.chmod(0o755 if path.is_dir() else 0o644)

    release = install.version(program).split()[0]
    shutil.copytree(once(f"{program}-data-{release}", fill) / "data", data)

"""Finds a server's programs: installed ones, else Debian's packages, unpacked without root into a cache folder."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.process import search_path

# Where the package's name does not begin with the library's.
_PACKAGED_AS = {"libcrypto": "libssl"}
# Taken from the machine always: a second libc beside the loader of the first one crashes.
_NEVER_UNPACKED = re.compile(r"^(libc6|libc-bin|libgcc)")


class MissingEngine(RuntimeError):
    """A database server that the tests need is not there; the message says what was tried and how to cure it."""


@dataclass(frozen=True)
class Install:
    """A prefix such as `/usr` or one below the cache, and the way to its own shared libraries."""

    prefix: Path
    unpacked: bool = False

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": _library_path(self.prefix.parent)} if self.unpacked else {}

    def program(self, *names: str) -> str:
        for name in names:
            for folder in ("bin", "sbin", "libexec"):
                if (self.prefix / folder / name).exists():
                    return str(self.prefix / folder / name)
        raise MissingEngine(f"{self.prefix} holds none of {', '.join(names)}: is the installation complete?")


def find(program: str, packages: Sequence[str]) -> Install:
    """The installation that holds `program`."""
    found = shutil.which(program, path=search_path())
    if found:
        return Install(Path(found).resolve().parent.parent)
    ready = cache() / f"{program}-{_system()}"
    if not os.access(ready, os.X_OK):
        _fill(ready, program, packages)
    return Install(ready / "usr", unpacked=True)


def cache() -> Path:
    chosen = os.environ.get("IDEMTABLE_TEST_CACHE")
    return Path(chosen).absolute() if chosen else Path(__file__).parents[2] / ".cache" / "servers"


def _system() -> str:
    """One checkout may be used from several systems, whose binaries do not mix."""
    with contextlib.suppress(OSError):
        system = platform.freedesktop_os_release()
        return f"{system['ID']}{system.get('VERSION_ID', '')}-{platform.machine()}"
    return f"{platform.system().lower()}-{platform.machine()}"


def _fill(ready: Path, program: str, packages: Sequence[str]) -> None:
    """Unpack beside the final place and rename, so that another process sees everything or nothing."""
    lacking = [tool for tool in ("apt-get", "dpkg", "ldd") if not shutil.which(tool, path=search_path())]
    if lacking:
        raise _missing(program, packages, f"this machine has no {lacking[0]} to fetch Debian's packages with")
    try:
        ready.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{ready.name}-", dir=ready.parent))
    except OSError as error:
        raise _missing(
            program, packages, f"no packages can be unpacked into {ready.parent}: {error.strerror}"
        ) from error
    try:
        _unpack(packages, draft)
        _add_libraries(packages, draft)
        Install(draft / "usr").program(program)  # raises when the packages do not hold it
        draft.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was faster: its copy is as good
            draft.rename(ready)
    except subprocess.CalledProcessError as error:
        tried = " ".join(map(str, error.cmd))
        raise _missing(program, packages, f"`{tried}` failed: {error.stderr.strip()}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if not ready.exists():
        raise _missing(program, packages, f"{ready} could not be created")


def _unpack(packages: Sequence[str], root: Path) -> None:
    downloads = Path(tempfile.mkdtemp(dir=root.parent, prefix=".download-"))
    # Without the option, apt as root complains that its own user may not write here.
    download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages]
    try:
        try:
            _call(download, downloads)
        except subprocess.CalledProcessError:
            if os.geteuid() != 0:
                raise
            _call(["apt-get", "-qq", "update"], downloads)
            _call(download, downloads)
        for package in downloads.glob("*.deb"):
            _call(["dpkg", "-x", str(package), str(root)], downloads)
    finally:
        shutil.rmtree(downloads, ignore_errors=True)


def _add_libraries(packages: Sequence[str], root: Path) -> None:
    """Fetch the shared libraries that this machine lacks, then what those lack, until nothing is missing."""
    while missing := _missing_libraries(root):
        stems = {_PACKAGED_AS.get(stem, stem) for stem in (name.split(".so")[0] for name in missing)}
        offered = [name for name in _dependencies(packages) if name.startswith("lib")]
        wanted = [name for name in offered if name.startswith(tuple(stems))] or offered
        _unpack([name for name in wanted if not _NEVER_UNPACKED.match(name)], root)
        if _missing_libraries(root) >= missing:
            raise MissingEngine(
                f"no dependency of {', '.join(packages)} brings {', '.join(sorted(missing))}.\n"
                f"Install the server instead: apt-get install {' '.join(packages)}"
            )


def _missing_libraries(root: Path) -> set[str]:
    programs = [str(path) for folder in ("bin", "sbin") for path in (root / "usr" / folder).glob("*")]
    environment = {"PATH": search_path(), "LC_ALL": "C", "LD_LIBRARY_PATH": _library_path(root)}
    # Scripts and dangling links make ldd fail, and say nothing about libraries.
    listing = subprocess.run(["ldd", *programs], capture_output=True, text=True, env=environment, check=False).stdout
    return set(re.findall(r"^\s*(\S+) => not found", listing, re.MULTILINE))


def _library_path(root: Path) -> str:
    folders = {library.parent for top in ("lib", "usr/lib") for library in (root / top).glob("**/*.so*")}
    return os.pathsep.join(sorted(str(folder) for folder in folders if "plugin" not in folder.parts))


def _dependencies(packages: Sequence[str]) -> list[str]:
    relations = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    options = ["--recurse", *(f"--no-{relation}" for relation in relations)]
    listing = _call(["apt-cache", "depends", *options, *packages], Path("/"))
    return sorted({line for line in listing.splitlines() if re.match(r"^[a-z0-9]", line)})


def _call(command: Sequence[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def _missing(program: str, packages: Sequence[str], reason: str) -> MissingEngine:
    return MissingEngine(
        f"{program}: not on PATH, and {reason}.\n"
        f"Cure: install it (apt-get install {' '.join(packages)}), or run `apt-get update` as root and try again, "
        f"or set IDEMTABLE_TEST_CACHE to a folder that you may write, or give the tests a server of yours "
        f"(IDEMTABLE_TEST_MARIADB_URL and its like)."
    )

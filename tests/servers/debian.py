"""Finds programs of servers and browsers: installed, else Debian's packages, unpacked without root into a cache folder."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.servers.apt import Apt, AptError, of_suite
from tests.servers.cache import cache, once
from tests.servers.process import search_path

# Where the package's name does not begin with the library's.
_PACKAGED_AS = {
    "libcrypto": "libssl",
    **dict.fromkeys(("libgio-2.0", "libgmodule-2.0", "libgobject-2.0"), "libglib2.0-0"),
    **dict.fromkeys(("libnssutil3", "libsmime3"), "libnss3"),
    **dict.fromkeys(("libplc4", "libplds4"), "libnspr4"),
}
# Taken from the machine always: a second libc beside the loader of the first one crashes.
_NEVER_UNPACKED = re.compile(r"^(libc6|libc-bin|libgcc)")
# Of another suite all libraries are unpacked, the libc with its loader too; but not what only Perl scripts need.
_LIBRARIES = re.compile(r"^(lib(?!perl|gdbm|db5|c-bin|c-gconv)|zlib1g)")

# Started by any other loader than their own, programs of another suite crash. `exec` keeps the process id.
_LAUNCHER = """#!/bin/sh
root=${{0%/usr/*}}
exec "$root/{loader}" --library-path "$root/{libraries}" "$root/{program}" "$@"
"""


class MissingEngine(RuntimeError):
    """A server or a browser that the tests need is not there; the message says what was tried and how to cure it."""


@dataclass(frozen=True)
class Install:
    """A prefix such as `/usr` or one below the cache, and the way to its own shared libraries."""

    prefix: Path
    unpacked: bool = False
    own_libc: bool = False

    @property
    def environment(self) -> dict[str, str]:
        by_path = self.unpacked and not self.own_libc
        return {"LD_LIBRARY_PATH": _library_path(self.prefix.parent)} if by_path else {}

    def program(self, *names: str) -> str:
        for name in names:
            for folder in ("bin", "sbin", "libexec"):
                if (self.prefix / folder / name).exists():
                    return str(self.prefix / folder / name)
        raise MissingEngine(f"{self.prefix} holds none of {', '.join(names)}: is the installation complete?")

    def version(self, program: str) -> str:
        """What `--version` says behind `Ver`."""
        command, environment = [self.program(program), "--version"], {**os.environ, **self.environment}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
        return said.partition(" Ver ")[2]


def find(program: str, packages: Sequence[str], *, suite: str = "", version: str = "", beside: str = "") -> Install:
    """The installation that holds `program`.

    `version` is a pattern for the version that an installed one must have. `suite` is the suite of Debian that has the
    packages, where the machine's own has none. `beside` is a file, below the prefix, that it must hold as well.
    """
    found = shutil.which(program, path=search_path())
    if found:
        installed = Install(Path(found).resolve().parent.parent)
        if (not version or re.match(version, installed.version(program))) and (installed.prefix / beside).exists():
            return installed
    lacking = [tool for tool in ("apt-get", "dpkg", "ldd") if not shutil.which(tool, path=search_path())]
    name = f"{program}-{suite}-{platform.machine()}" if suite else f"{program}-{_system()}"
    name += f"-{Path(beside).stem}" if beside else ""
    try:
        if lacking and not (cache() / name).exists():
            raise AptError(f"this machine has no {lacking[0]} to fetch Debian's packages with")
        fill = partial(_fill_from, suite) if suite else _fill
        ready = once(name, partial(fill, program, packages))
    except (AptError, OSError) as error:
        raise _missing(program, packages, suite, str(error)) from error
    return Install(ready / "usr", unpacked=True, own_libc=bool(suite))


def _system() -> str:
    """One checkout may be used from several systems, whose binaries do not mix."""
    with contextlib.suppress(OSError):
        system = platform.freedesktop_os_release()
        return f"{system['ID']}{system.get('VERSION_ID', '')}-{platform.machine()}"
    return f"{platform.system().lower()}-{platform.machine()}"


def _fill(program: str, packages: Sequence[str], root: Path) -> None:
    apt = Apt()
    apt.unpack(packages, root)
    _add_libraries(apt, packages, root)
    Install(root / "usr").program(program)  # raises when the packages do not hold it


def _fill_from(suite: str, program: str, packages: Sequence[str], root: Path) -> None:
    with of_suite(suite) as apt:
        needed = apt.dependencies(packages)
        apt.unpack([name for name in needed if name in packages or _LIBRARIES.match(name)], root)
    _add_launchers(root)
    Install(root / "usr").program(program)


def _add_launchers(root: Path) -> None:
    """Put a script in the place of each program, that starts it with the libraries beside it."""
    loaders = sorted(root.glob("usr/lib/*/ld-linux*.so.*"))
    if not loaders:
        raise AptError("the packages hold no loader")
    loader = loaders[0].relative_to(root)
    hidden = root / "usr" / "libexec" / "launched"
    hidden.mkdir(parents=True)
    for program in [path for folder in ("bin", "sbin") for path in (root / "usr" / folder).glob("*")]:
        if not program.is_symlink() and program.read_bytes()[:4] == b"\x7fELF":
            real = program.rename(hidden / program.name)
            program.write_text(_LAUNCHER.format(loader=loader, libraries=loader.parent, program=real.relative_to(root)))
            program.chmod(0o755)


def _add_libraries(apt: Apt, packages: Sequence[str], root: Path) -> None:
    """Fetch the shared libraries that this machine lacks, then what those lack, until nothing is missing."""
    while missing := _missing_libraries(root):
        stems = {_PACKAGED_AS.get(stem, stem) for stem in (name.split(".so")[0] for name in missing)}
        offered = [name for name in apt.dependencies(packages) if name.startswith("lib")]
        wanted = [name for name in offered if _plain(name).startswith(tuple(map(_plain, stems)))] or offered
        apt.unpack([name for name in wanted if not _NEVER_UNPACKED.match(name)], root)
        if _missing_libraries(root) >= missing:
            raise AptError(f"no dependency of {', '.join(packages)} brings {', '.join(sorted(missing))}")


def _plain(name: str) -> str:
    """libXNVCtrl.so.0 is in libxnvctrl0, libatk-1.0.so.0 in libatk1.0-0."""
    return name.lower().replace("-", "")


def _missing_libraries(root: Path) -> set[str]:
    usr = root / "usr"
    programs = [str(path) for folder in ("bin", "sbin") for path in (usr / folder).glob("*")]
    # What a script in bin/ starts: lib/chromium/chromium, and Erlang's runtime with what that loads.
    programs += [str(path) for path in usr.glob("lib/*/*") if path.name == path.parent.name]
    programs += [
        str(path) for part in ("erts-*/bin/*", "lib/*/priv/lib/*.so") for path in usr.glob(f"lib/erlang/{part}")
    ]
    environment = {"PATH": search_path(), "LC_ALL": "C", "LD_LIBRARY_PATH": _library_path(root)}
    # Scripts and dangling links make ldd fail, and say nothing about libraries.
    listing = subprocess.run(["ldd", *programs], capture_output=True, text=True, env=environment, check=False).stdout
    return set(re.findall(r"^\s*(\S+) => not found", listing, re.MULTILINE))


def _library_path(root: Path) -> str:
    folders = {library.parent for top in ("lib", "usr/lib") for library in (root / top).glob("**/*.so*")}
    return os.pathsep.join(sorted(str(folder) for folder in folders if "plugin" not in folder.parts))


def _missing(program: str, packages: Sequence[str], suite: str, reason: str) -> MissingEngine:
    install = "install it" if suite else f"install it (apt-get install {' '.join(packages)})"
    wanted = f"{program} of Debian's suite {suite}" if suite else program
    return MissingEngine(
        f"{wanted}: not on PATH, and {reason.removesuffix('.')}.\n"
        f"Cure: {install}, or run `apt-get update` as root and try again, "
        f"or set IDEMTABLE_TEST_CACHE to a folder that you may write, or give the tests a server of yours "
        f"(IDEMTABLE_TEST_MARIADB_URL and its like)."
    )

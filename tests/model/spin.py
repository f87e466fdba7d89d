"""Spin and a C compiler, found or unpacked as the servers are, and what a search with them has seen."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.servers import MissingEngine, debian
from tests.servers.process import search_path

# tcc takes a tenth of a second for what gcc takes ten for, and there is more to compile here than to run.
_COMPILER = ("tcc", "libc6-dev", "linux-libc-dev")
_NO_END = "Search not completed"


class SearchError(RuntimeError):
    """Spin or the compiler failed, or a search did not come to its end: then it has shown nothing."""


class Way(Enum):
    """What is looked for, as options of spin's verifier: to compile it with, and to run it with."""

    EVERYWHERE = ("-DSAFETY -DCOLLAPSE", "-m1000000 -w22")
    """Every state, for one in which a property does not hold, or in which somebody waits for ever."""
    SHORTEST = ("-DSAFETY -DBFS", "-w20")
    """The same, and the shortest way to the first that is found."""
    ENDLESS = ("-DNP -DCOLLAPSE", "-l -m1000000 -w22")
    """A run that goes on for ever."""
    ENDLESS_IF_FAIR = ("-DNP -DCOLLAPSE -DNFAIR=4", "-l -f -m1000000 -w22")
    """A run that goes on for ever although everybody who can do something does it in the end."""


@dataclass(frozen=True)
class Found:
    """What a search has seen."""

    states: int
    depth: int
    seconds: float
    error: str = ""
    """In spin's words; empty where all is well."""
    trail: tuple[str, ...] = ()
    """What the model says on the way to the error."""


def search(model: Path, switches: Mapping[str, str], way: Way) -> Found:
    """Search a model.

    Args:
        model: a file of Promela.
        switches: of the model, by name.
        way: what to look for.

    Raises:
        MissingEngine: there is no spin, or no C compiler.
        SearchError: it did not come to its end.
    """
    begun = time.monotonic()
    spin, compiler = _spin(), _compiler()
    to_compile, to_run = (options.split() for options in way.value)
    with tempfile.TemporaryDirectory(prefix="idemtable-model-") as folder:
        # Spin would call a preprocessor itself, by a line that it cuts off at some length.
        defined = [f"-D{name}={value}" for name, value in switches.items()]
        text = _run([*compiler.command, "-E", "-xc", *defined, str(model.resolve())], folder)
        (Path(folder) / "model.pml").write_text(text, encoding="utf-8")
        _run([*spin, "-a", "model.pml"], folder)
        _run([*compiler.command, *to_compile, *compiler.linked("pan.c"), "-o", "pan"], folder)
        said = _run(["./pan", *to_run], folder)
        error = re.search(r"^pan:\d+: (.*?)(?: \(at depth \d+\))?$", said, re.M)
        if (_NO_END in said) != (error is not None):
            raise SearchError(f"{model.name} {' '.join(defined)}:\n{said}")
        trail = _run([*spin, "-t", "-T", "model.pml"], folder).splitlines() if error else []
    return Found(
        states=_number(r"^ *(\d+) states, stored", said),
        depth=_number(r"depth reached (\d+)", said),
        seconds=round(time.monotonic() - begun, 1),
        error=error[1] if error else "",
        trail=tuple(line.strip() for line in trail if _is_told(line.strip())),
    )


def _is_told(line: str) -> bool:
    """Say whether the model itself has printed a line."""
    return re.match(r"!! |Note over |\w+-[->x]+\w+: ", line) is not None


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.M)
    if found is None:
        raise SearchError(f"no {pattern!r} in what spin said:\n{text}")
    return int(found[1])


def _run(command: Sequence[str], folder: str) -> str:
    environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SearchError(f"`{' '.join(command)}` failed:\n{done.stdout}{done.stderr}")
    return done.stdout


# --- the programs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Compiler:
    """A C compiler; `libraries` is where its own files to link with are, unless it knows."""

    command: tuple[str, ...]
    libraries: Path | None = None

    def linked(self, source: str) -> list[str]:
        if self.libraries is None:
            return [source]
        # By name: Debian's libc.so is a text that names files below /usr, where they are not.
        files = {name: str(self.libraries / name) for name in ("crt1.o", "crti.o", "crtn.o", "libc_nonshared.a")}
        libc = f"/lib/{self.libraries.name}/libc.so.6"
        own = str(self.libraries / "tcc" / "libtcc1.a")
        last = [libc, files["libc_nonshared.a"], own, files["crtn.o"]]
        return ["-nostdlib", files["crt1.o"], files["crti.o"], source, *last]


def _spin() -> list[str]:
    return [debian.find("spin", ["spin"]).program("spin"), "-Pcat"]


def _compiler() -> _Compiler:
    try:
        install = debian.find("tcc", _COMPILER)
    except MissingEngine:
        if (found := shutil.which("cc", path=search_path())) is None:
            raise
        return _Compiler((found, "-w"))
    if not install.unpacked:
        return _Compiler((install.program("tcc"),))
    libraries = next(install.prefix.glob("lib/*/crt1.o")).parent
    headers = install.prefix / "include"
    includes = [f"-I{headers}", f"-I{headers / libraries.name}"]
    return _Compiler((install.program("tcc"), f"-B{libraries / 'tcc'}", *includes), libraries)

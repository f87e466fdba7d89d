"""MariaDB, installed or unpacked from Debian's packages; another version than the machine's from those of `sid`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sqlalchemy.engine import URL

from tests.servers import debian
from tests.servers.datadir import copy
from tests.servers.ports import HOST, Probe, free_port
from tests.servers.process import ServerProcess, new_home, remove, run
from tests.servers.server import Server

PACKAGES = ("mariadb-server-core", "mariadb-client-core")

# The greeting: three bytes of length, a sequence number 0, protocol version 10. It listens only after recovery.
_PROBE = Probe(b"", b"\0\x0a", offset=3)

_LOG_SIZE = "innodb_log_file_size=16M"
# The character set stays the server's own (latin1 in many versions): the library must cope with it.
_SETTINGS = (
    f"bind_address={HOST}",
    "skip_name_resolve=ON",
    "max_connections=200",
    "performance_schema=OFF",
    "innodb_buffer_pool_size=64M",
    _LOG_SIZE,
    "innodb_print_all_deadlocks=ON",
    "skip_ssl",  # a test that cuts a line looks at what passes
)
# 2 and not 0: the log leaves the process at every commit, so that `kill` loses nothing, and costs no more.
FAST = ("innodb_flush_log_at_trx_commit=2", "innodb_flush_method=nosync")


def mariadb(version: str = "", *, fast: bool = True, extra: Sequence[str] = ()) -> Server:
    """A started MariaDB, of the version that the machine offers, or of one such as `11.8`.

    `extra` holds lines for its configuration file. `fast` commits survive `kill`, not a power cut.
    """
    install = found(version)
    home = new_home("mariadb")
    try:
        process = prepare(install, home, [*(FAST if fast else ()), *extra])
        process.start()
    except BaseException:
        remove(home)
        raise
    address = URL.create("mysql", "root", host=HOST, port=process.port, query={"charset": "utf8mb4"})
    return Server(name=f"mariadb{version}", port=process.port, process=process, address=address)


def found(version: str, packages: Sequence[str] = PACKAGES, beside: str = "") -> debian.Install:
    """The installation of a version, or of the machine's own; `beside` is a file that it must hold as well."""
    if version:
        return debian.find("mariadbd", packages, suite="sid", version=rf"{re.escape(version)}\.", beside=beside)
    return debian.find("mariadbd", packages, beside=beside)


def prepare(install: debian.Install, home: Path, settings: Sequence[str]) -> ServerProcess:
    """A server with a data directory of its own, to be started; `settings` come after what all of them have."""
    copy(install, "mariadbd", home / "data", partial(_initialise, install))
    port, temporary = free_port(), home / "tmp"
    temporary.mkdir()  # of its own: two servers that share one wipe each other's files
    files = [f"datadir={home}/data", f"tmpdir={temporary}", f"socket={home}/socket", f"pid_file={home}/pid"]
    configuration = home / "server.cnf"
    configuration.write_text(
        "\n".join(["[mariadbd]", *files, f"port={port}", *_places(install, home), *_SETTINGS, *settings, ""])
    )
    command = [install.program("mariadbd"), f"--defaults-file={configuration}", *_user()]
    return ServerProcess(command, home, port, _PROBE, environment=install.environment)


def _initialise(install: debian.Install, home: Path, data: Path) -> None:
    create = [install.program("mariadb-install-db", "mysql_install_db"), "--no-defaults", f"--basedir={install.prefix}"]
    create += [f"--datadir={data}", f"--tmpdir={home}", "--auth-root-authentication-method=normal", "--skip-test-db"]
    run([*create, "--force", f"--{_LOG_SIZE}", *_user()], home, install.environment)


def _user() -> list[str]:
    """As root the servers start only when they are told that it is meant."""
    return ["--user=root"] if os.geteuid() == 0 else []


def _places(install: debian.Install, home: Path) -> list[str]:
    """Where the server finds its own files; an installed one knows, an unpacked one looks below /usr."""
    if not install.unpacked:
        return []
    messages = next(install.prefix.glob("share/*/english/errmsg.sys")).parents[1]
    plugins = next(install.prefix.glob("lib/*/plugin"), home)
    return [f"basedir={install.prefix}", f"lc_messages_dir={messages}", f"plugin_dir={plugins}"]

"""MariaDB, installed or unpacked from Debian's packages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import URL

from tests.servers import debian
from tests.servers.ports import HOST, Probe, free_port
from tests.servers.process import ServerProcess, new_home, remove, run
from tests.servers.server import Server

PACKAGES = ("mariadb-server-core", "mariadb-client-core")

# The greeting: three bytes of length, a sequence number 0, protocol version 10. It listens only after recovery.
_PROBE = Probe(b"", b"\0\x0a", offset=3)

# The character set stays the server's own (latin1 in many versions): the library must cope with it.
_SETTINGS = (
    f"bind_address={HOST}",
    "skip_name_resolve=ON",
    "max_connections=200",
    "performance_schema=OFF",
    "innodb_buffer_pool_size=64M",
    "innodb_print_all_deadlocks=ON",
)
# 2 and not 0: the log leaves the process at every commit, so that `kill` loses nothing, and costs no more.
_FAST = ("innodb_flush_log_at_trx_commit=2", "innodb_flush_method=nosync")


def mariadb(*, fast: bool = True, extra: Sequence[str] = ()) -> Server:
    """A started MariaDB; `extra` holds lines for its configuration file. `fast` commits survive `kill`, not a power cut."""
    install = debian.find("mariadbd", PACKAGES)
    home = new_home("mariadb")
    try:
        places = _places(install, home)
        process = _prepare(install, places, home, [*_SETTINGS, *(_FAST if fast else ()), *extra])
        process.start()
    except BaseException:
        remove(home)
        raise
    address = URL.create("mysql", "root", host=HOST, port=process.port, query={"charset": "utf8mb4"})
    return Server(name="mariadb", port=process.port, process=process, address=address)


def _prepare(install: debian.Install, places: Sequence[str], home: Path, settings: Sequence[str]) -> ServerProcess:
    port, data, temporary = free_port(), home / "data", home / "tmp"
    temporary.mkdir()  # of its own: two servers that share one wipe each other's files
    user = ["--user=root"] if os.geteuid() == 0 else []
    create = [install.program("mariadb-install-db", "mysql_install_db"), "--no-defaults", f"--basedir={install.prefix}"]
    create += [f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db", "--force", *user]
    run([*create, f"--tmpdir={temporary}"], home, install.environment)

    files = [f"datadir={data}", f"tmpdir={temporary}", f"socket={home}/socket", f"pid_file={home}/pid", f"port={port}"]
    configuration = home / "server.cnf"
    configuration.write_text("\n".join(["[mariadbd]", *files, *places, *settings, ""]))
    command = [install.program("mariadbd"), f"--defaults-file={configuration}", *user]
    return ServerProcess(command, home, port, _PROBE, environment=install.environment)


def _places(install: debian.Install, home: Path) -> list[str]:
    """Where the server finds its own files; an installed one knows, an unpacked one looks below /usr."""
    if not install.unpacked:
        return []
    messages = next(install.prefix.glob("share/*/english/errmsg.sys")).parents[1]
    plugins = next(install.prefix.glob("lib/*/plugin"), home)
    return [f"basedir={install.prefix}", f"lc_messages_dir={messages}", f"plugin_dir={plugins}"]

"""MySQL, installed or unpacked from the packages of Debian's `sid`: Debian's stable releases have none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sqlalchemy.engine import URL

from tests.servers import debian
from tests.servers.datadir import copy
from tests.servers.ports import HOST, Probe, free_port
from tests.servers.process import ServerProcess, new_home, remove, run
from tests.servers.server import Server

PACKAGES = ("mysql-server-core",)
# Not Ubuntu's 8.0: its AppArmor profile forbids data in any other place than its own.
_VERSION = r"(?:9|\d\d)\.(?!.*MariaDB)"

# The greeting: three bytes of length, a sequence number 0, protocol version 10. It listens only after recovery.
_PROBE = Probe(b"", b"\0\x0a", offset=3)

# No skip_name_resolve: root is known at `localhost` only, which is what the server makes of 127.0.0.1 without asking.
_SETTINGS = (
    f"bind_address={HOST}",
    "mysqlx=OFF",
    "max_connections=200",
    "performance_schema=OFF",
    "disable_log_bin",
    "innodb_buffer_pool_size=64M",
    "innodb_redo_log_capacity=16M",
    "innodb_print_all_deadlocks=ON",
    "secure_file_priv=NULL",
    "tls_version=",  # a test that cuts a line looks at what passes. An empty password needs no encryption
)
# 2 and not 0: the log leaves the process at every commit, so that `kill` loses nothing, and costs no more.
_FAST = ("innodb_flush_log_at_trx_commit=2", "innodb_flush_method=nosync")


def mysql(*, fast: bool = True, extra: Sequence[str] = ()) -> Server:
    """A started MySQL; `extra` holds lines for its configuration file. `fast` commits survive `kill`, not a power cut."""
    install = debian.find("mysqld", PACKAGES, suite="sid", version=_VERSION)
    home = new_home("mysql")
    try:
        copy(install, "mysqld", home / "data", partial(_initialise, install))
        port = free_port()
        command = _command(install, home, home / "data", [f"port={port}", *_SETTINGS, *(_FAST if fast else ()), *extra])
        process = ServerProcess(command, home, port, _PROBE)
        process.start()
    except BaseException:
        remove(home)
        raise
    address = URL.create("mysql", "root", host=HOST, port=process.port, query={"charset": "utf8mb4"})
    return Server(name="mysql", port=process.port, process=process, address=address)


def _command(install: debian.Install, home: Path, data: Path, settings: Sequence[str]) -> list[str]:
    # A folder for temporary files of its own: two servers that share one wipe each other's.
    temporary = home / "tmp"
    temporary.mkdir()
    files = [f"datadir={data}", f"tmpdir={temporary}", f"socket={home}/socket", f"pid_file={home}/pid"]
    if install.unpacked:  # an installed one knows where its own files are
        files.append(f"basedir={install.prefix}")
        files.append(f"lc_messages_dir={install.prefix}/share/mysql")
        files.append(f"plugin_dir={install.prefix}/lib/mysql/plugin")
    configuration = home / "server.cnf"
    configuration.write_text("\n".join(["[mysqld]", *files, *settings, ""]))
    user = ["--user=root"] if os.geteuid() == 0 else []
    return [install.program("mysqld"), f"--defaults-file={configuration}", *user]


def _initialise(install: debian.Install, home: Path, data: Path) -> None:
    run([*_command(install, home, data, [*_SETTINGS, *_FAST]), "--initialize-insecure"], home, {})
    (data / "auto.cnf").unlink()  # the server's identity: each copy makes its own

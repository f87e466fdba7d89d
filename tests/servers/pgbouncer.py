"""PgBouncer in front of a PostgreSQL, installed or unpacked from Debian's packages."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from sqlalchemy import URL

from tests.servers import debian
from tests.servers.ports import HOST, Probe, free_port
from tests.servers.postgresql import reachable, temporary
from tests.servers.process import ServerProcess, new_home, remove
from tests.servers.server import Server

PACKAGES = ("pgbouncer",)

# "Do you speak TLS?" is the one question that is answered before any database is named.
_PROBE = Probe(b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"N")


def pgbouncer(server: Server, *, connections: int = 2, mode: str = "transaction") -> Server:
    """A started PgBouncer, with so many connections to each database of the server."""
    install = debian.find("pgbouncer", PACKAGES)
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # it refuses to run as root, as PostgreSQL does
    home = new_home("pgbouncer", parent=temporary(user))
    try:
        port, program = free_port(), install.program("pgbouncer")
        if user is not None and install.unpacked and not reachable(Path(program)):
            install = debian.Install(Path(shutil.copytree(install.prefix.parent, home / "install")) / "usr", True)
            program = install.program("pgbouncer")
        users = home / "users.txt"
        users.write_text('"postgres" ""\n')
        configuration = home / "pgbouncer.ini"
        settings = {
            "listen_addr": HOST,
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": users,
            "pool_mode": mode,
            "default_pool_size": connections,
            "max_client_conn": 200,
        }
        lines = ["[databases]", f"* = host={server.host} port={server.port}", "[pgbouncer]"]
        configuration.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items()), ""]))
        if user is not None:
            for path in (home, users, configuration):
                os.chown(path, user.pw_uid, user.pw_gid)
        command = [program, str(configuration)]
        process = ServerProcess(command, home, port, _PROBE, environment=install.environment, user=user)
        process.start()
    except BaseException:
        remove(home)
        raise
    address = URL.create("postgresql", "postgres", host=HOST, port=port, database="postgres")
    return Server(name="pgbouncer", port=port, process=process, address=address)

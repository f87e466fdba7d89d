"""Patroni over three servers of PostgreSQL's, which agree by Patroni's own Raft: all of it from PyPI."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psycopg
from sqlalchemy.engine import URL

from tests.clusters.load import urls
from tests.servers import MissingEngine, Server
from tests.servers.cache import once
from tests.servers.ports import HOST, Probe, free_ports
from tests.servers.postgresql import binaries_for, reachable, temporary
from tests.servers.process import ServerProcess, new_home, remove
from tests.servers.server import Stopping
from tests.support.crowd import until

SIZE = 3
PATIENCE = 120.0
_REQUIREMENTS = ("patroni[raft]==4.1.5", "psycopg[binary]>=3.2")
_DATABASE = "postgres"
# "How are you?" It answers before there is any database.
_PROBE = Probe(b"GET /liveness HTTP/1.0\r\n\r\n", b"HTTP/1.0 ")


class Patroni(Stopping):
    """A leader, a synchronous standby, and another one. As a context manager it ends with all of them."""

    def __init__(self) -> None:
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        packages = once(f"patroni-python3.{sys.version_info.minor}", _install)
        python = _python(user)
        free = iter(free_ports(3 * SIZE))
        ports = [{name: next(free) for name in ("sql", "http", "raft")} for _ in range(SIZE)]
        self.http = [one["http"] for one in ports]
        self.nodes: list[Server] = []
        with ExitStack() as stack:
            for number, own in enumerate(ports):
                home = new_home(f"patroni{number}", parent=temporary(user))
                stack.callback(remove, home)
                partners = [f"{HOST}:{one['raft']}" for one in ports if one is not own]
                configuration = home / "patroni.json"  # which is YAML too
                configuration.write_text(json.dumps(_configuration(number, own, partners, home, user)))
                for path in (home, configuration):
                    if user is not None:
                        os.chown(path, user.pw_uid, user.pw_gid)
                process = ServerProcess(
                    [python, "-m", "patroni", str(configuration)],
                    home,
                    own["http"],
                    _PROBE,
                    environment={"PYTHONPATH": str(packages), "PYTHONWARNINGS": "ignore"},
                    user=user,
                )
                address = URL.create("postgresql", "postgres", host=HOST, port=own["sql"], database=_DATABASE)
                self.nodes.append(Server(name=f"p{number}", port=own["sql"], process=process, address=address))
                stack.callback(self._end, number)
                process.start()
            self.await_(lambda: sorted(self.roles().values()) == ["leader", "replica", "sync_standby"], "not complete")
            stack.pop_all()

    def url(self, driver: str = "psycopg") -> Any:
        """Where the application finds whichever takes writes."""
        return urls(self.nodes, _DATABASE, driver)

    def roles(self) -> dict[int, str]:
        """The parts of those that run, as any of them tells."""
        for port in self.http:
            with suppress(URLError, OSError), urlopen(f"http://{HOST}:{port}/cluster", timeout=5) as answer:
                members = json.load(answer)["members"]
                return {
                    int(one["name"][1:]): one["role"] for one in members if one["state"] in ("running", "streaming")
                }
        return {}

    def number_of(self, role: str) -> int | None:
        return next((number for number, one in self.roles().items() if one == role), None)

    def switch(self) -> None:
        """The planned switchover to the synchronous standby; come back when it leads and is followed."""
        leader, candidate = self.number_of("leader"), self.number_of("sync_standby")
        assert leader is not None
        body = json.dumps({"leader": f"p{leader}", "candidate": f"p{candidate}"}).encode()
        with urlopen(Request(f"http://{HOST}:{self.http[leader]}/switchover", body), timeout=60) as answer:
            assert answer.status == 200, answer.read()
        self.await_(lambda: self.roles().get(candidate or 0) == "leader", "no new leader")
        self.await_(lambda: self.number_of("sync_standby") is not None, "nobody follows")

    def kill_leader(self) -> None:
        """SIGKILL the leader, its server and its Patroni; come back when another one leads."""
        leader = self.number_of("leader")
        assert leader is not None
        self._end(leader)
        self.await_(lambda: self.number_of("leader") not in (None, leader), "no new leader")

    def effects(self) -> list[tuple[str, int]]:
        """All effects that the leader has, with their ids."""
        leader = self.number_of("leader")
        assert leader is not None
        with psycopg.connect(f"host={HOST} port={self.nodes[leader].port} user=postgres") as connection:
            return [(str(name), int(id)) for name, id in connection.execute("SELECT name, id FROM effect")]

    def await_(self, so: Callable[[], bool], what: str) -> None:
        until(so, lambda: f"{what}: {self.roles()}", patience=PATIENCE, every=0.1)

    def _end(self, number: int) -> None:
        process = self.nodes[number].process
        assert process is not None
        process.kill()  # and its children: PostgreSQL is one of them
        _end_orphan(process.home / "data" / "postmaster.pid")

    def stop(self) -> None:
        for number, node in enumerate(self.nodes):
            self._end(number)
            node.stop()


def _end_orphan(file: Path) -> None:
    """End a PostgreSQL that is a child of nobody: Patroni starts it as `pg_ctl` does."""
    from tests.servers import watchdog

    with suppress(OSError, ValueError, IndexError):
        number = int(file.read_text().split()[0])
        command = Path(f"/proc/{number}/cmdline").read_bytes()
        if str(file.parent).encode() in command:  # and not whoever has got its number since
            watchdog.end(number, None)


def _configuration(
    number: int, own: dict[str, int], partners: list[str], home: Path, user: pwd.struct_passwd | None
) -> dict[str, Any]:
    account = {"username": "postgres", "password": "postgres"}
    parameters = {"unix_socket_directories": "", "fsync": "off", "max_connections": 200, "shared_buffers": "64MB"}
    return {
        "scope": "shop",
        "name": f"p{number}",
        "log": {"level": "WARNING"},
        "restapi": {"listen": f"{HOST}:{own['http']}", "connect_address": f"{HOST}:{own['http']}"},
        "raft": {"data_dir": str(home / "raft"), "self_addr": f"{HOST}:{own['raft']}", "partner_addrs": partners},
        "bootstrap": {
            "dcs": {
                "ttl": 20,  # the least that it takes, as the next two
                "loop_wait": 2,
                "retry_timeout": 3,
                "synchronous_mode": True,
                "postgresql": {"use_pg_rewind": True, "parameters": parameters},
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "trust"}],
        },
        "postgresql": {
            "listen": f"{HOST}:{own['sql']}",
            "connect_address": f"{HOST}:{own['sql']}",
            "data_dir": str(home / "data"),
            "bin_dir": str(binaries_for(18, home, user)),
            "pgpass": str(home / "pgpass"),
            "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
            "authentication": {"superuser": account, "replication": account, "rewind": account},
        },
    }


def _python(user: pwd.struct_passwd | None) -> str:
    """An interpreter of this one's version that the user may start."""
    name = f"python3.{sys.version_info.minor}"
    for found in (getattr(sys, "_base_executable", sys.executable), f"/usr/bin/{name}", shutil.which(name)):
        if found and Path(found).exists() and (user is None or reachable(Path(found))):
            return str(found)
    raise MissingEngine(f"{name} where a user without rights may start it: run the tests as another user than root")


def _install(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(folder)]
    done = subprocess.run([*command, *_REQUIREMENTS], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingEngine(f"Patroni: {done.stderr.strip()}\nCure: an index of Python packages that pip can reach.")

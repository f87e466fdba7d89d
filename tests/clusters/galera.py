"""Galera: three nodes of MariaDB on this machine, without the packages that copy whole data directories between them."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy.engine import URL

from tests.clusters.nodes import Cluster
from tests.servers import Server
from tests.servers.mariadb import FAST, PACKAGES, found, prepare
from tests.servers.ports import HOST, free_ports
from tests.servers.process import ServerError, ServerProcess, new_home, search_path

SIZE = 3
_PROVIDER = "lib/galera/libgalera_smm.so"

# A state transfer that copies nothing. A node whose data are a copy of another's, or that knows how far it is, needs no
# more than what has been written since; to copy everything fails. A donor's credentials are read, or it takes EPIPE ill.
_TRANSFER = """#!/bin/sh
bypass= position=
while [ $# -gt 0 ]; do
  case $1 in
    --role) role=$2; shift ;;
    --datadir) data=$2; shift ;;
    --address) address=$2; shift ;;
    --gtid) gtid=$2; shift ;;
    --gtid-domain-id) domain=$2; shift ;;
    --bypass) bypass=1 ;;
    --wsrep-start-position=*|--wsrep_start_position=*) position=${1#*=} ;;
  esac
  shift
done
if [ "$role" = joiner ]; then
  if [ -z "$position" ]; then
    while read -r name value; do
      case $name in uuid:) uuid=$value ;; seqno:) number=$value ;; esac
    done < "$data/grastate.dat"
    position=$uuid:$number
  fi
  echo "ready $address"; echo "$position 0"
else
  cat > /dev/null
  [ -n "$bypass" ] || exit 95
  echo "done $gtid $domain"
fi
"""
_STATE = "# GALERA saved state\nversion: 2.1\nuuid:    {uuid}\nseqno:   {number}\nsafe_to_bootstrap: 0\n"


class Galera(Cluster):
    """Of a version such as `11.8`, or the machine's own."""

    CURRENT = "SET SESSION wsrep_sync_wait = 1"

    def __init__(self, version: str = "") -> None:
        self.version = version
        install = found(version, (*PACKAGES, "galera-4"), _PROVIDER)
        provider = install.prefix / _PROVIDER
        with ExitStack() as stack:
            self.nodes: list[Server] = []
            free = free_ports(3 * SIZE)
            groups = [free[number::SIZE] for number in range(SIZE)]
            seeds = ",".join(f"{HOST}:{ports[0]}" for ports in groups)
            for number, ports in enumerate(groups):
                home = new_home(f"galera{version}")
                process = prepare(install, home, [*FAST, *_settings(provider, seeds, number, ports)])
                transfer = home / "bin" / "wsrep_sst_nothing"
                transfer.parent.mkdir()
                transfer.write_text(_TRANSFER)
                transfer.chmod(0o755)
                process.environment = {**process.environment, "PATH": f"{transfer.parent}:{search_path()}"}
                address = URL.create("mysql", "root", host=HOST, port=process.port, query={"charset": "utf8mb4"})
                self.nodes.append(Server(name=f"node {number}", port=process.port, process=process, address=address))
                stack.callback(self.nodes[-1].stop)
            self._copy_first()
            for number in range(SIZE):
                self._start(number, alone=number == 0)
            self.furnish()
            stack.pop_all()

    def _copy_first(self) -> None:
        self._start(0, alone=True)
        first = _process(self.nodes[0])
        first.halt()
        for node in self.nodes[1:]:
            data = _process(node).home / "data"
            shutil.rmtree(data)
            shutil.copytree(first.home / "data", data, ignore=shutil.ignore_patterns("galera.cache", "gvwstate.dat"))

    def _start(self, number: int, *, alone: bool = False) -> None:
        process = _process(self.nodes[number])
        state = process.home / "data" / "grastate.dat"
        if alone and state.exists():
            state.write_text(state.read_text().replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
        usual = process.command
        process.command = [*usual, "--wsrep-new-cluster"] if alone else usual
        try:
            process.start()
        finally:
            process.command = usual
        self.await_synced(number)

    def restart(self, number: int) -> None:
        process = _process(self.nodes[number])
        state = process.home / "data" / "grastate.dat"
        if "seqno:   -1" in state.read_text():  # killed: InnoDB knows how far it came, and then no whole copy is needed
            command = [*process.command, "--wsrep-recover"]
            environment = {"PATH": search_path(), "LC_ALL": "C", **process.environment}
            done = subprocess.run(
                command, env=environment, cwd=process.home, capture_output=True, text=True, check=False
            )
            position = re.search(r"Recovered position:? *([0-9a-f-]+):(-?\d+)", done.stderr + done.stdout)
            if position is None:
                raise ServerError(f"no position in {(done.stderr + done.stdout)[-2000:]}")
            state.write_text(_STATE.format(uuid=position[1], number=position[2]))
        self._start(number)

    def status(self, number: int) -> dict[str, str]:
        return {
            name.removeprefix("wsrep_"): value for name, value in self.ask(number, "SHOW GLOBAL STATUS LIKE 'wsrep%'")
        }

    def await_synced(self, number: int) -> None:
        """Come back when a node takes writes and has what the others have."""

        def synced() -> bool:
            status = self.status(number)
            return (status["ready"], status["local_state_comment"]) == ("ON", "Synced")

        self.await_(synced, f"node {number} is not synced")

    def await_without(self, asked: int, gone: int) -> None:
        def small() -> bool:
            status = self.status(asked)
            return (status["cluster_size"], status["ready"]) == (str(SIZE - 1), "ON")

        self.await_(small, f"node {asked} still counts on node {gone}")

    def retire(self, number: int) -> None:
        _process(self.nodes[number]).halt()

    def reinstate(self, number: int) -> None:
        self._start(number)

    def provide(self, number: int, name: str, value: str) -> None:
        """Set an option of the replication's; in 11.8 each is a variable."""
        if self.version:
            self.ask(number, f"SET GLOBAL wsrep_provider_{name.replace('.', '_')} = {value}")
        else:
            self.ask(number, f"SET GLOBAL wsrep_provider_options = '{name}={value}'")

    def isolate(self, number: int) -> None:
        """Let a node hear nothing of the others."""
        self.provide(number, "gmcast.isolate", "1")

    def rejoin(self, number: int) -> None:
        """End what `isolate` did, and come back when the node is one of them again."""
        self.provide(number, "gmcast.isolate", "0")
        self.await_synced(number)

    def heal(self, number: int) -> None:
        self.provide(number, "pc.bootstrap", "1")
        self.await_synced(number)


def _settings(provider: Path, seeds: str, number: int, ports: list[int]) -> list[str]:
    group, transfer, receive = ports
    options = {
        "base_host": HOST,
        "base_port": group,
        "gmcast.listen_addr": f"tcp://{HOST}:{group}",
        "ist.recv_addr": f"tcp://{HOST}:{transfer}",
        "gcache.size": "16M",
    }
    return [
        "binlog_format=ROW",
        "innodb_autoinc_lock_mode=2",
        "wsrep_on=ON",
        f"wsrep_provider={provider}",
        "wsrep_cluster_name=shop",
        f"wsrep_cluster_address=gcomm://{seeds}",
        f"wsrep_node_name=node{number}",
        f"wsrep_node_address={HOST}:{group}",
        "wsrep_sst_method=nothing",
        f"wsrep_sst_receive_address={HOST}:{receive}",
        "wsrep_slave_threads=2",
        f"wsrep_provider_options={';'.join(f'{name}={value}' for name, value in options.items())}",
    ]


def _process(node: Server) -> ServerProcess:
    assert node.process is not None
    return node.process

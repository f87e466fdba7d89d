"""MySQL Group Replication: three members on this machine."""

from __future__ import annotations

from contextlib import ExitStack
from uuid import uuid4

from tests.clusters.nodes import Cluster
from tests.servers import Server, mysql
from tests.servers.ports import HOST, free_ports

SIZE = 3

_SETTINGS = (
    "log_bin=binlog",
    "gtid_mode=ON",
    "enforce_gtid_consistency=ON",
    "performance_schema=ON",  # which has the views of the group
    "tls_version=TLSv1.3",  # without any, its own lines cannot begin either
    f"report_host={HOST}",
    "plugin_load_add=group_replication.so",
    "group_replication_start_on_boot=OFF",
    f"group_replication_ip_allowlist={HOST}/8",
    "group_replication_recovery_get_public_key=ON",
    "group_replication_member_expel_timeout=0",  # of five seconds, which would only be waited for
    "group_replication_autorejoin_tries=0",
)


class Group(Cluster):
    """With one primary, or with several.

    `majority_timeout` is what `group_replication_unreachable_majority_timeout` is, in seconds.
    """

    CURRENT = "SET SESSION group_replication_consistency = 'BEFORE'"

    def __init__(self, *, several: bool, majority_timeout: int = 4) -> None:
        self.writes_everywhere = several
        locals_ = [f"{HOST}:{port}" for port in free_ports(SIZE)]
        self.locals = locals_
        switch = {True: "ON", False: "OFF"}
        settings = (
            *_SETTINGS,
            f"group_replication_group_name={uuid4()}",
            f"group_replication_group_seeds={','.join(locals_)}",
            f"group_replication_single_primary_mode={switch[not several]}",
            f"group_replication_enforce_update_everywhere_checks={switch[several]}",
            f"group_replication_unreachable_majority_timeout={majority_timeout}",
        )
        with ExitStack() as stack:
            self.nodes: list[Server] = []
            for number, local in enumerate(locals_):
                own = (f"server_id={number + 1}", f"group_replication_local_address={local}")
                self.nodes.append(stack.enter_context(mysql(extra=[*settings, *own])))
                self.join(number, alone=number == 0)
            self.furnish()
            stack.pop_all()

    def join(self, number: int, *, alone: bool = False) -> None:
        """Have a member join the group, or begin it, and come back when it has caught up."""
        if alone:
            self.ask(number, "SET GLOBAL group_replication_bootstrap_group = ON")
        self.ask(number, "START GROUP_REPLICATION USER='root'")
        if alone:
            self.ask(number, "SET GLOBAL group_replication_bootstrap_group = OFF")
        self.await_(
            lambda: self.states(number).get(self.nodes[number].port) == "ONLINE", f"member {number} is not online"
        )

    def restart(self, number: int) -> None:
        self.nodes[number].start()
        self.join(number)

    def states(self, number: int) -> dict[int, str]:
        """What a member believes of all members, by their ports."""
        sql = "SELECT member_port, member_state FROM performance_schema.replication_group_members"
        return {int(port): str(state) for port, state in self.ask(number, sql)}

    def primary(self, asked: int) -> int | None:
        """The number of the one primary, as a member sees it."""
        sql = (
            "SELECT member_port FROM performance_schema.replication_group_members"
            " WHERE member_role = 'PRIMARY' AND member_state = 'ONLINE'"
        )
        ports = [int(port) for (port,) in self.ask(asked, sql)]
        numbers = [number for number, node in enumerate(self.nodes) if node.port in ports]
        return numbers[0] if len(numbers) == 1 else None

    def serving(self, otherwise: int) -> int:
        if self.writes_everywhere:
            return otherwise
        primary = self.primary(otherwise)
        assert primary is not None, "no primary"
        return primary

    def retire(self, number: int) -> None:
        """With one primary: hand the part over to another. With several: leave the group, and be read-only."""
        if self.writes_everywhere:
            self.ask(number, "STOP GROUP_REPLICATION")
        else:
            self.make_primary((number + 1) % SIZE)

    def reinstate(self, number: int) -> None:
        self.join(number) if self.writes_everywhere else self.make_primary(number)

    def make_primary(self, number: int) -> None:
        """The planned switch, which waits for what is under way."""
        identity = self.ask(number, "SELECT @@server_uuid")[0][0]
        self.ask(number, f"SELECT group_replication_set_as_primary('{identity}')")

    def await_without(self, asked: int, gone: int) -> None:
        port = self.nodes[gone].port
        self.await_(lambda: port not in self.states(asked), f"member {gone} is not expelled")
        if not self.writes_everywhere:
            self.await_(lambda: self.primary(asked) is not None, "no new primary")

    def heal(self, number: int) -> None:
        self.ask(number, "STOP GROUP_REPLICATION")
        self.ask(number, "SET GLOBAL offline_mode = OFF")
        self.join(number, alone=True)

"""PostgreSQL with standbys, of which one is promoted when the primary was killed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import psycopg

from tests.clusters.load import urls
from tests.servers import Server, postgresql, standby
from tests.servers.server import Stopping
from tests.support.crowd import until

DATABASE = "shop"


class Standbys(Stopping):
    """A primary and so many standbys. As a context manager it ends with all of them.

    `synchronous` is what `synchronous_standby_names` is; the standbys are named s1, s2, ….
    """

    def __init__(self, count: int, synchronous: str) -> None:
        with ExitStack() as stack:
            self.primary = stack.enter_context(postgresql(extra=["wal_receiver_status_interval=1s"]))
            self.primary.create_database(DATABASE)
            self.standbys: list[Server] = []
            for number in range(1, count + 1):
                self.standbys.append(stack.enter_context(standby(self.primary, f"s{number}")))
            self.configure(self.primary, "synchronous_standby_names", synchronous)
            self._stack = stack.pop_all()

    @property
    def servers(self) -> list[Server]:
        return [self.primary, *self.standbys]

    def url(self, driver: str = "psycopg") -> Any:
        """Where the application finds whichever takes writes."""
        return urls(self.servers, DATABASE, driver)

    def ask(self, server: Server, sql: str) -> list[Any]:
        """Run a statement on one server; return the rows."""
        where = f"host={server.host} port={server.port} user=postgres dbname={DATABASE} connect_timeout=5"
        with psycopg.connect(where, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def configure(self, server: Server, name: str, value: str) -> None:
        """Change a setting, and come back when it holds."""
        self.ask(server, f"ALTER SYSTEM SET {name} = '{value}'")
        self.ask(server, "SELECT pg_reload_conf()")
        until(lambda: self.ask(server, f"SHOW {name}") == [(value,)], f"{name} does not become {value!r}")

    def await_synchronous(self, count: int) -> None:
        """Come back when so many standbys are what COMMIT waits for."""
        sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') AND state = 'streaming'"
        until(lambda: self.ask(self.primary, sql) == [(count,)], f"COMMIT does not wait for {count} standbys")

    def furthest(self) -> Server:
        """The standby that has received most: where COMMIT waits for any one of several, the one to promote."""
        received = "SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn"
        return max(self.standbys, key=lambda server: self.ask(server, received)[0][0])

    def promote(self, chosen: Server) -> None:
        """Make a standby the primary; the others follow it, and it waits for one of them if there are any."""
        self.ask(chosen, "SELECT pg_promote()")
        others = [server for server in self.standbys if server is not chosen]
        for server in others:
            source = f"host={chosen.host} port={chosen.port} user=postgres application_name={server.name}"
            self.ask(server, f"ALTER SYSTEM SET primary_conninfo = '{source}'")
            self.ask(server, "SELECT pg_reload_conf()")
        names = f"ANY 1 ({', '.join(server.name for server in others)})" if others else ""
        self.configure(chosen, "synchronous_standby_names", names)

    def effects(self, server: Server) -> list[tuple[str, int]]:
        return [(str(name), int(id)) for name, id in self.ask(server, "SELECT name, id FROM effect")]

    def stop(self) -> None:
        self._stack.close()

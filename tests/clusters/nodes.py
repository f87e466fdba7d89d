"""What the clusters of MySQL and MariaDB have in common: nodes that are asked, killed, and told apart by their numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import closing
from typing import Any, ClassVar

import pymysql
import sqlalchemy as sa

from tests.servers import Server
from tests.servers.server import Stopping
from tests.support.crowd import until

DATABASE = "shop"
USER = "shop"
"""Has no privilege to pass over what a server refuses to others, as root has."""
PATIENCE = 90.0


class Cluster(Stopping):
    """Three servers that are one database. As a context manager it ends with all of them."""

    nodes: list[Server]
    CURRENT: ClassVar[str]
    """Has the statement after it wait for all that was committed before, on whatever node."""
    writes_everywhere = True
    """Whether each node takes writes, and not one of them alone."""

    def ask(self, number: int, sql: str, *, database: str = "", current: bool = False) -> list[Any]:
        """Run a statement on one node, as its administrator; return the rows.

        By the driver alone: where a node does not belong to its cluster it refuses SQLAlchemy's first ROLLBACK too.
        """
        node = self.nodes[number]
        connection = pymysql.connect(
            host=node.host,
            port=node.port,
            user="root",
            database=database or None,
            autocommit=True,
            connect_timeout=5,
            read_timeout=60,
            ssl_disabled=True,
        )
        with closing(connection), connection.cursor() as cursor:
            if current:
                cursor.execute(self.CURRENT)
            cursor.execute(sql)
            return list(cursor.fetchall())

    def url(self, number: int, driver: str = "pymysql") -> sa.URL:
        """Where the application finds a node."""
        return sa.make_url(self.nodes[number].url(DATABASE, f"mysql+{driver}")).set(username=USER)

    @property
    def hosts(self) -> list[str]:
        return [f"{node.host}:{node.port}" for node in self.nodes]

    def furnish(self) -> None:
        """Make the application's user and its database, and come back when every node has them."""
        self.ask(0, f"CREATE DATABASE {DATABASE}")
        self.ask(0, f"CREATE USER {USER}@'%'")
        self.ask(0, f"GRANT ALL ON {DATABASE}.* TO {USER}@'%'")
        for number in range(len(self.nodes)):
            self.await_(lambda number=number: self.ask(number, f"SHOW GRANTS FOR {USER}@'%'"), "no user there")

    def await_(self, so: Callable[[], object], what: str) -> None:
        """Come back when something is so, and an error means that it is not yet; fail when it does not happen."""
        seen: object = None

        def look() -> bool:
            nonlocal seen
            try:
                seen = so()
            except pymysql.Error as error:
                seen = error
                return False
            return bool(seen)

        until(look, lambda: f"{what}: {seen}", patience=PATIENCE, every=0.05)

    def kill(self, number: int) -> None:
        """SIGKILL a node."""
        self.nodes[number].kill()

    def serving(self, otherwise: int) -> int:
        """The number of the node that takes writes; where each one does, `otherwise`."""
        return otherwise

    @abstractmethod
    def restart(self, number: int) -> None:
        """Start a node that was killed, and come back when it is one of them again and has what the others have."""

    @abstractmethod
    def retire(self, number: int) -> None:
        """Take a node out of service as planned: what is under way there ends or fails."""

    @abstractmethod
    def reinstate(self, number: int) -> None:
        """End what `retire` began."""

    @abstractmethod
    def await_without(self, asked: int, gone: int) -> None:
        """Come back when the others go on without a node that was killed, as one of them says."""

    @abstractmethod
    def heal(self, number: int) -> None:
        """Make a cluster of the one node that is left, as an administrator does who knows that the others are dead."""

    def effects(self, number: int) -> list[tuple[str, int]]:
        """All effects that a node has, with their ids."""
        return [
            (str(name), int(id))
            for name, id in self.ask(number, "SELECT name, id FROM effect", database=DATABASE, current=True)
        ]

    def stop(self) -> None:
        for node in reversed(self.nodes):
            if node.process is not None:
                node.process.kill()  # to leave a group in good order takes a member seconds
            node.stop()

"""Users of a database that have what `idemtable db sql --grants` prints for their job, and no right more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from idemtable import upgrade as steps
from tests.support.database import Base, Database, kind_of

BUSINESS = "SELECT, INSERT, UPDATE"
"""What the application may do with tables of its own, that no test may lean on more."""


class Roles:
    """A database, and users of it that have nothing but what they were given."""

    def __init__(self, url: sa.URL | str) -> None:
        self.url = sa.make_url(url)
        self.owner = sa.create_engine(self.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        self.kind = kind_of(self.owner)
        self._made: list[str] = []
        self._engines: list[sa.Engine] = []

    def execute(self, script: str) -> None:
        with self.owner.connect() as connection:
            for statement in script.split(";\n"):
                if lines := [line for line in statement.splitlines() if not line.startswith("--")]:
                    connection.exec_driver_sql("\n".join(lines).replace("%", "%%"))

    def new(self) -> str:
        name = f"r_{uuid4().hex[:12]}"
        if self.kind == "postgresql":
            self.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'field'")
            # The default of PostgreSQL before 15, and what an application's own role would lack as well.
            self.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        else:
            self.execute(f"CREATE USER {name}")
        self._made.append(name)
        return name

    def url_of(self, name: str) -> sa.URL:
        return self.url.set(username=name, password="field" if self.kind == "postgresql" else None)

    def grant(self, job: str, name: str, **names: Any) -> None:
        """Give a user what is printed for its job."""
        self.execute(steps.grants(self.url, [(job, name)], **names))

    def hired(self, job: str, **names: Any) -> sa.Engine:
        """A new user with what is printed for its job, as an engine."""
        name = self.new()
        self.grant(job, name, **names)
        return self.engine(name)

    def engine(self, name: str) -> sa.Engine:
        self._engines.append(sa.create_engine(self.url_of(name)))
        return self._engines[-1]

    def expire(self) -> None:
        """Let the time of every token and of every finished call have passed."""
        old = "'2020-01-01 00:00:00'"
        self.execute(
            f"UPDATE idemtable SET created_at = {old}, completed_at = {old}, expires_at = {old} WHERE status = 1"
        )

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()
        for name in self._made:
            if self.kind == "postgresql":
                self.execute(f"DROP OWNED BY {name}")
                self.execute(f"DROP ROLE {name}")
            else:
                self.execute(f"DROP USER {name}")


class HiredDatabase(Database):
    """A database that is spoken to as the application's user: engine, URL and table are that user's.

    Only what another job is there for is done by that job's user: the owner makes tables, the purge's user deletes records.
    A test looks, sweeps and changes tables as the owner, as always.
    """

    _deletes = False
    users: Mapping[str, str] = MappingProxyType({})
    """The users' names, by their jobs; there is none while the owner makes what is to be there."""

    def __init__(self, backend: str, url: sa.URL, driver: str) -> None:
        super().__init__(backend, url, driver)
        self.roles = Roles(url)
        names = {job: self.roles.new() for job in ("app", "purge")}
        self._urls = {"": self.url} | {job: self._url_of(name) for job, name in names.items()}
        self.users, self._engines = names, {"": self.engine}
        for table in Base.metadata.tables:
            self.roles.execute(f"GRANT {BUSINESS} ON {table} TO {names['app']}")
        if self.kind == "postgresql":
            self.roles.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {names['app']}")
        self.hire()
        self.url = self._urls["app"]
        self.engine = self._engines["app"] = self.make_engine()
        self.idem = self.table()

    def hire(self, **names: Any) -> None:
        """Give each user what is printed for its job."""
        for job, name in self.users.items():
            self.roles.grant(job, name, **names)

    def table(self, bind: Any = None, **settings: Any) -> Any:
        table = super().table(bind, **settings)
        if not self.users:
            return table
        schema = settings.get("schema") or _options(bind).get("schema_translate_map", {}).get(None)
        names = {"table": settings.get("table", "idemtable"), "schema": schema}
        if names != {"table": "idemtable", "schema": None}:
            self._name(**names)
        own = table.forget, table.purge

        def by(job: str, verb: str) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                return getattr(super(HiredDatabase, self).table(self._beside(bind, job), **settings), verb)(
                    *args, **kwargs
                )

            return call

        def forget(*args: Any, **kwargs: Any) -> Any:
            try:
                return own[0](*args, **kwargs)
            except sa.exc.DBAPIError as error:
                assert "denied" in str(error.orig)
            return by("purge", "forget")(*args, **kwargs)

        def purge(*args: Any, **kwargs: Any) -> Any:
            return (own[1] if self._deletes else by("purge", "purge"))(*args, **kwargs)

        def create_all() -> None:
            by("", "create_all")()
            self.hire(**names)

        table.forget, table.purge, table.create_all = forget, purge, create_all
        return table

    def execute(self, sql: str, **values: Any) -> Any:
        done = super().execute(sql, **values)
        if made := re.match(r"CREATE TABLE (\w+)", sql):
            self.roles.execute(f"GRANT {BUSINESS} ON {made[1]} TO {self.users['app']}")
        return done

    @contextmanager
    def deleting(self, schema: str | None = None) -> Iterator[None]:
        table = "idemtable" if schema is None else f"{schema}.idemtable"
        self.roles.execute(f"GRANT DELETE ON {table} TO {self.users['app']}")
        self._deletes = True
        try:
            yield
        finally:
            self._deletes = False
            self.roles.execute(f"REVOKE DELETE ON {table} FROM {self.users['app']}")

    def close(self) -> None:
        for job in ("", "purge"):
            if job in self._engines:
                self.dispose(self._engines[job])
        super().close()
        self.roles.close()

    def _url_of(self, name: str) -> sa.URL:
        return self.roles.url_of(name).set(drivername=self.url.drivername)

    def _name(self, table: str, schema: str | None) -> None:
        """Let the users know of a table that is not there yet.

        Without a right to its schema, on MySQL to the name itself, they would be told of nothing but that.
        """
        if self.kind == "postgresql":
            for name in self.users.values() if schema is not None else ():
                self.roles.execute(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
            return
        full = table if schema is None else f"{schema}.{table}"
        made = [one for one in (full, f"{full}_version") if not self._is_there(one)]
        for one in made:
            self.roles.execute(f"CREATE TABLE {one} (id integer)")
        self.hire(table=table, schema=schema)
        for one in made:
            self.roles.execute(f"DROP TABLE {one}")  # which leaves the rights to its name

    def _is_there(self, table: str) -> bool:
        schema, _, name = table.rpartition(".")
        with self.admin.connect() as connection:
            return sa.inspect(connection).has_table(name, schema=schema or None)

    def _beside(self, bind: Any, job: str) -> Any:
        """The engine of another user, with the options of what a table is bound to."""
        if job not in self._engines:
            self.url, mine = self._urls[job], self.url
            try:
                self._engines[job] = self.make_engine()
            finally:
                self.url = mine
        return self._engines[job].execution_options(**_options(bind))


def _options(bind: Any) -> Any:
    sync = getattr(bind, "sync_engine", bind)
    return sync.get_execution_options() if isinstance(sync, sa.Engine) else {}

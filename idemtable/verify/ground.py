"""The one table that `verify` works in: made by it, known again by a column that nobody else has, and dropped at the end.

The keys stand in it and the effects too, so that a role needs rights to no other. An effect is a row with an id that was
drawn for it: nothing but the library keeps it single.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import sqlalchemy as sa
import tenacity

from .. import upgrade as steps
from ..claim.verdict import chain
from ..dialects import Fault, find, full_name
from ..dialects.catalogue import CHARSET
from ..errors import SchemaError
from ..keys import digest
from ..model import Status
from ..repository import Records
from ..tables import key_table

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..dialects.catalogue import Catalogue

SCOPE: Final = "verify"
_MARK: Final = "made_by_idemtable_verify"
_LEASE: Final = 60.0
"""Seconds for which a run is taken to be at work beyond its time: it may take as long to end what hangs."""
_OLD: Final = datetime(2020, 1, 1, tzinfo=UTC)
_NOBODY: Final = bytes(16)
_DROPS: Final = 5
"""How often the drop is tried, each time as long as the database is told to wait for a lock: a connection that was cut
keeps its own until the server has noticed."""


class Ground:
    """The table, in one database.

    Args:
        url: of the database, with a sync driver.
        connect_args: for the driver.
        table: the table's name.
        schema: the table's schema.
    """

    def __init__(self, url: sa.URL, connect_args: Mapping[str, Any], table: str, schema: str | None) -> None:
        # Of its own: whatever becomes of the callers' connections, this one can still drop the table.
        self.engine = sa.create_engine(url, connect_args=dict(connect_args), pool_size=1)
        self.table, self.schema = table, schema
        self._is_ours = False
        """Whether the table that is there, if one is, may be dropped."""
        self.database = find(self.engine.dialect, table, schema)
        self.records = Records(self.database, table, schema)
        self._rows = key_table(sa.MetaData(), table, schema)
        self._rows.append_column(sa.Column(_MARK, self._rows.c.key.type))
        self._effect = sa.insert(self._rows).values(
            {"scope": SCOPE, "status": Status.LOCK.code, "owner": _NOBODY, "created_at": _OLD, "expires_at": _OLD}
            | {_MARK: "an effect"}
        )

    @property
    def name(self) -> str:
        """The table as people write it."""
        return full_name(self.table, self.schema)

    @property
    def catalogue(self) -> type[Catalogue]:
        """What is asked of the database from outside."""
        return self.database.catalogue

    def cure(self, error: BaseException) -> str | None:
        """Return what an exception tells of what is wrong between here and the database, if anything."""
        for one in chain(error):
            if isinstance(one, UnicodeError):  # a driver's, before it sends anything
                return CHARSET
            if self.database.is_driver_error(one) and (cure := self.catalogue.cures.get(self.database.code(one))):
                return cure
        return None

    # --- there and gone again ---------------------------------------------------------------------------------------------

    def make(self, seconds: float) -> str | None:
        """Make the table; drop first what a run that was killed has left.

        Args:
            seconds: for which it will be used.

        Returns:
            What a ROLLBACK left of a row in a table that names no engine, as an application's own; ``None`` if nothing.

        Raises:
            SchemaError: there is a table of that name that `verify` has not made, or in which it is at work now.
        """
        with self._connected() as connection:
            with steps.locked(connection, self.table, self.schema):
                owner, lease = os.urandom(16), round((seconds + _LEASE) * 1e6)
                inspector = sa.inspect(connection)
                if inspector.has_table(self.table, schema=self.schema):
                    columns = {column["name"] for column in inspector.get_columns(self.table, schema=self.schema)}
                    self._refuse_others(connection, columns, owner, lease)
                self._is_ours = True
                self._rows.drop(connection, checkfirst=True)
                self._plain().create(connection)
                self.records.lease(connection, owner, lease)
            stayed = self._stays(connection)
            with steps.locked(connection, self.table, self.schema):
                self._rows.drop(connection)
                self._rows.create(connection)
                self.records.lease(connection, owner, lease)
            return stayed or self._stays(connection)

    def _refuse_others(self, connection: sa.Connection, columns: set[str], owner: bytes, lease: int) -> None:
        cure = "Name another one with --table"
        if columns != set(self._rows.columns.keys()):
            raise SchemaError(f"there is a table {self.name} that verify has not made, and it was left alone. {cure}")
        if not self.records.lease(connection, owner, lease):
            raise SchemaError(
                f"another verify is at work in the table {self.name}, or was killed there a moment ago. {cure}, or wait"
            )

    def _plain(self) -> sa.Table:
        """Return the table without what the library says of engine and character set."""
        copies = [sa.Column(c.name, c.type, primary_key=c.primary_key, autoincrement=False) for c in self._rows.columns]
        return sa.Table(self.table, sa.MetaData(), *copies, schema=self.schema)

    def _stays(self, connection: sa.Connection) -> str | None:
        """Insert a row, roll back, and say what is left of it."""
        id = UUID(bytes=os.urandom(16))
        with connection.begin() as transaction:
            connection.execute(self._effect, {"id": self.database.id(id.bytes)})
            transaction.rollback()
        left = self._found(connection, [id])
        connection.rollback()
        return "a row stayed in a table after its INSERT was rolled back" if left else None

    def drop(self) -> str | None:
        """Drop the table if it was made, and close what looked at it; say why it could not be dropped, if so."""
        try:
            return self._drop() if self._is_ours else None
        finally:
            self.engine.dispose()

    def _drop(self) -> str | None:
        # Connections that were cut are not free at once, and a server that is full has nobody to ask when one is. Where a
        # lock was in the way the database has waited itself.
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_pass),
            stop=tenacity.stop_after_attempt(_DROPS),
            wait=tenacity.wait_fixed(0.2),
            reraise=True,
        )
        try:
            again(self._drop_once)
        except sa.exc.SQLAlchemyError as error:
            return f"{getattr(error, 'orig', None) or error}"
        return None

    def _drop_once(self) -> None:
        self.engine.dispose()  # an interruption may have come in the middle of its work
        with self._connected() as connection, connection.begin():
            for statement in self.database.before_ddl:
                connection.exec_driver_sql(statement.replace("%", "%%"))
            self._rows.drop(connection, checkfirst=True)

    def _may_pass(self, error: BaseException) -> bool:
        return isinstance(error, sa.exc.SQLAlchemyError) and self.database.numbered(error) is not Fault.DENIED

    def _connected(self) -> sa.Connection:
        return self.engine.connect().execution_options(**self.database.upgrade_options)

    # --- effects ----------------------------------------------------------------------------------------------------------

    def write(self, session: Session, id: UUID) -> None:
        """Take effect: what a business function does for its key."""
        session.execute(self._effect, {"id": self.database.id(id.bytes)})

    def looks(self, session: Session) -> bool:
        """Look into the table, and say whether that has begun a transaction."""
        session.execute(sa.select(self._rows.c.id).limit(1))
        # PyMySQL does not hear of it from a SELECT; there whatever is sent begins one.
        return self.database.begins_unasked or self.database.in_transaction(session.connection())

    def committed(self, ids: Collection[UUID]) -> int:
        """Say how many of these effects are there for everybody to see."""
        with self._connected() as connection:
            return self._found(connection, ids)

    def _found(self, connection: sa.Connection, ids: Collection[UUID]) -> int:
        column = self._rows.c.id
        wanted = [self.database.id(id.bytes) for id in ids]
        return len(connection.execute(sa.select(column).where(column.in_(wanted))).all())

    def age(self, key: str) -> None:
        """Make the record of a key as old as if its time had passed long ago."""
        row = self._rows.update().where(self._rows.c.id == self.database.id(digest(None, SCOPE, key)))
        with self._connected() as connection, connection.begin():
            connection.execute(row.values(created_at=_OLD, completed_at=_OLD, expires_at=_OLD))

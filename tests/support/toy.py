"""A database of one file: SQLite under a name that neither the library nor Alembic has ever heard of.

Importing it makes it known to the process, which is why no other test does.
"""

from __future__ import annotations

from alembic.ddl.sqlite import SQLiteImpl
from sqlalchemy import Connection, inspect
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite import BLOB
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from idemtable.dialects import Driver, Types, register
from idemtable.dialects.sqlite import SQLite

BACKENDS = {"sqlite-toy": ("sqlite", "toy+pysqlite"), "sqlite-toy-async": ("sqlite", "toy+aiosqlite")}
"""For `tests.support.backends`: a SQLite database, in which only the engine under test speaks Toy."""


class ToyDialect(SQLiteDialect_pysqlite):
    name = "toy"
    supports_statement_cache = True


class AsyncToyDialect(SQLiteDialect_aiosqlite):
    name = "toy"
    supports_statement_cache = True


class ToyImpl(SQLiteImpl):
    __dialect__ = "toy"


for name in ("toy", "toy.pysqlite"):
    registry.register(name, __name__, "ToyDialect")
registry.register("toy.aiosqlite", __name__, "AsyncToyDialect")
registry.register("toy.wooden", "a_module_that_is_not_there", "WoodenToyDialect")


@register
class Toy(SQLite):
    """The statements are SQLite's; what is declared is this database's own, to see who asks for it."""

    names = ("toy",)
    mistaken = ("toys",)
    drivers = (
        Driver("pysqlite", "sqlite3"),
        Driver("aiosqlite", "aiosqlite"),
        Driver("wooden", "a_module_that_is_not_there", "carve one", works=False),
    )
    types = Types(blob=BLOB())
    before_ddl = ("SELECT 'toys come out'",)
    after_ddl = ("SELECT 'toys go back'",)

    @classmethod
    def table_flaws(cls, connection: Connection, table: str, schema: str | None) -> list[str]:
        return ["it is broken"] if inspect(connection).has_table("broken") else []

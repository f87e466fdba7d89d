"""What MySQL's and MariaDB's catalogue tells of the promises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ...model import Finding
from ..words import Fault, is_mariadb
from . import CHARSET, CONNECTIONS, Catalogue
from .asking import ISOLATION, LEVELS, RUN_TWICE, asked, first, good, mend, note, quoted, rights
from .nodes import galera, group

_OLDEST: Final = {True: (10, 6), False: (8, 0)}
_HISTORY: Final = 1_000_000
"""Old versions of rows that InnoDB has not removed, from which on looks get slow: some hundred are usual."""
_COLUMNS: Final = """SELECT column_name, collation_name FROM information_schema.columns
    WHERE table_name = :table AND table_schema = COALESCE(:schema, DATABASE()) AND collation_name IS NOT NULL
        AND column_name IN ('tenant', 'scope', 'key') ORDER BY 1"""
_COLLATION: Final = "utf8mb4_bin"
_TRIED: Final = {
    "SELECT": "EXPLAIN SELECT id FROM {table} WHERE 1 = 0",
    "INSERT": "EXPLAIN INSERT INTO {table} (id, scope, status, owner, created_at, expires_at) "
    "SELECT id, scope, status, owner, created_at, expires_at FROM {table} WHERE 1 = 0",
    "UPDATE": "EXPLAIN UPDATE {table} SET status = status WHERE 1 = 0",
    "DELETE": "EXPLAIN DELETE FROM {table} WHERE 1 = 0",
}
"""What is refused to whom the statement itself would be: roles, wild cards and columns are the server's business."""
_LOG_TIMES: Final = {"0": "once a second", "2": "to the operating system at COMMIT and to disk once a second"}


class MySQLCatalogue(Catalogue):
    """MySQL's and MariaDB's."""

    number = "SELECT CONNECTION_ID()"
    ending = "KILL {number}"
    ended = frozenset({1094})
    cures = dict.fromkeys((1040, 1203, 1226), CONNECTIONS) | dict.fromkeys((1267, 1300, 1366, 3988), CHARSET)
    note = ("SET @idemtable_verify = '{word}'", "SELECT @idemtable_verify")

    @classmethod
    def leans_on_session(cls, connection: Connection) -> bool:
        """Say yes for MySQL: the lock time-out is the session's, and is lent and put back."""
        return not is_mariadb(connection)

    @classmethod
    def examine(cls, connection: Connection, table: str, schema: str | None) -> list[Finding]:
        """Ask, and judge."""
        variables, status = _named(connection, "VARIABLES"), _named(connection, "STATUS")
        members = asked(
            connection, "SELECT member_state, member_role FROM performance_schema.replication_group_members"
        )
        return [
            *judged(variables, is_mariadb(connection), _follows(connection)),
            *galera(variables, status),
            *group(variables, members),
            *_of_table(connection, table, schema),
            *_of_history(connection),
        ]

    @classmethod
    def isolation(cls, level: str) -> Finding:
        """Judge a level."""
        if level == "READ UNCOMMITTED":
            text = (
                f"{level}: your functions see what others are about to roll back. The library's own looks lock the row"
            )
            return note(
                ISOLATION, text, "SET GLOBAL transaction_isolation = 'READ-COMMITTED', and in the configuration"
            )
        if level == "SERIALIZABLE":
            return note(ISOLATION, f"{level}: {LEVELS}. A look through the whole table holds every claim up")
        return good(ISOLATION, level)

    @classmethod
    def fails_over(cls, connection: Connection) -> str | None:
        """Ask for a cluster, a group, or a server that it follows."""
        variables = _named(connection, "VARIABLES")
        if variables.get("wsrep_on") == "ON":
            return "it is a node of a Galera cluster"
        if variables.get("group_replication_group_name"):
            return "it is a member of a replication group"
        return "it follows another server" if _follows(connection) else None


def _named(connection: Connection, what: str) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in asked(connection, f"SHOW GLOBAL {what}") or []}


def _follows(connection: Connection) -> bool | None:
    # Of MySQL 8.0.22 and MariaDB 10.5 and later; needs a right of its own.
    rows = asked(connection, "SHOW REPLICA STATUS")
    return None if rows is None else bool(rows)


def judged(variables: Mapping[str, str], is_mariadb: bool, follows: bool | None) -> Iterator[Finding]:
    """Judge what the server says of itself.

    Args:
        variables: the global ones, by name.
        is_mariadb: which of the two it is.
        follows: whether it replicates from another one; ``None`` where this role may not see that.
    """
    version = variables.get("version", "")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers and numbers < _OLDEST[is_mariadb]:
        oldest = ".".join(map(str, _OLDEST[is_mariadb]))
        yield mend("version", f"{version}: the library is made for {oldest} and later", "Upgrade the server")
    yield from _role(variables, is_mariadb, follows)
    yield from _durable(variables)
    yield from _statements(variables)
    yield from _transactions(variables)


def _role(variables: Mapping[str, str], is_mariadb: bool, follows: bool | None) -> Iterator[Finding]:
    closed = [name for name in ("read_only", "super_read_only", "offline_mode") if _is_on(variables, name)]
    if closed:
        text = f"{', '.join(closed)} is on: claims and replays need a server that may be written to"
        yield mend("role", text, "Name the primary in the URL; if this is it, switch it off")
    elif follows:
        text = "it may be written to, and follows another server: a key that is used there is not locked here"
        yield note("role", text, "Write on one server alone, and set read_only on the others")
    elif follows is None:
        right = "REPLICA MONITOR" if is_mariadb else "REPLICATION CLIENT"
        yield note(
            "role", "may be written to; this role may not see whether it follows another", f"GRANT {right} ON *.*"
        )
    else:
        yield good("role", "may be written to")


def _durable(variables: Mapping[str, str]) -> Iterator[Finding]:
    name = "innodb_flush_log_at_trx_commit"
    if (value := variables.get(name, "1")) == "1":
        yield good(name, value)
    else:
        text = f"{value}: the log is written {_LOG_TIMES.get(value, 'now and then')}. {_LOST}. {RUN_TWICE}"
        yield mend(name, text, f"SET GLOBAL {name} = 1, and in the configuration")
    if _is_on(variables, "log_bin"):
        if (value := variables.get("sync_binlog", "1")) == "1":
            yield good("sync_binlog", value)
        else:
            text = f"{value}: after a loss of power replicas may lack what was acknowledged, or have more. {RUN_TWICE}"
            yield mend("sync_binlog", text, "SET GLOBAL sync_binlog = 1, and in the configuration")
        if variables.get("binlog_format") == "STATEMENT":
            text = "STATEMENT: what runs at READ COMMITTED is refused, and the purge does"
            yield mend("binlog_format", text, "SET GLOBAL binlog_format = 'ROW', and in the configuration")
    if variables.get("innodb_doublewrite", "ON") == "OFF":
        text = "OFF: a crash in the middle of a write can leave pages damaged"
        yield mend("innodb_doublewrite", text, "Set innodb_doublewrite = ON in the configuration")
    if "nosync" in variables.get("innodb_flush_method", "").lower():
        text = "nosync: nothing is flushed to disk, and a loss of power can leave everything damaged"
        yield mend("innodb_flush_method", text, "Take it out of the configuration")


_LOST: Final = "A crash forgets what was acknowledged since"


def _statements(variables: Mapping[str, str]) -> Iterator[Finding]:
    modes = set(variables.get("sql_mode", "").split(","))
    cure = "Add STRICT_TRANS_TABLES and NO_ENGINE_SUBSTITUTION: SET GLOBAL sql_mode = …, and in the configuration"
    if not modes & {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES", "TRADITIONAL"}:
        text = "is not strict: what does not fit into a column is cut, in your tables too, and no error tells"
        yield mend("sql_mode", text, cure)
    elif not modes & {"NO_ENGINE_SUBSTITUTION", "TRADITIONAL"}:
        text = "has no NO_ENGINE_SUBSTITUTION: a table may be made with another engine than the one that was named"
        yield mend("sql_mode", text, cure)
    else:
        yield good("sql_mode", "strict")
    engine = variables.get("default_storage_engine", "InnoDB")
    if engine.upper() in ("INNODB", "ROCKSDB", "NDB", "NDBCLUSTER"):
        yield good("default_storage_engine", engine)
    else:
        text = f"{engine}: what a function writes into a table that names no engine is not undone with its key"
        cure = "SET GLOBAL default_storage_engine = InnoDB, and ALTER TABLE … ENGINE = InnoDB for those that are there"
        yield mend("default_storage_engine", text, cure)


def _transactions(variables: Mapping[str, str]) -> Iterator[Finding]:
    if (value := variables.get("completion_type", "NO_CHAIN")) not in ("NO_CHAIN", "0"):
        text = f"{value}: COMMIT does not only commit, and what follows is not where the library takes it to be"
        yield mend("completion_type", text, "SET GLOBAL completion_type = NO_CHAIN, and in the configuration")
    if _is_on(variables, "innodb_rollback_on_timeout"):
        text = (
            "ON: a wait for a lock that takes too long undoes the whole transaction. In one of yours, join, redeem and the "
            "guards then raise RetryTransactionError, and what you wrote before is gone"
        )
        cure = "Roll back after it, and begin again; after a time-out of your own statements (1205) too"
        yield note("innodb_rollback_on_timeout", text, cure)
    else:
        yield good("innodb_rollback_on_timeout", "OFF")
    if _is_on(variables, "innodb_snapshot_isolation"):
        text = "ON: a row that was changed since the snapshot is error 1020. Calls begin again by themselves; guards say so"
        yield note("innodb_snapshot_isolation", text)
    elif "innodb_snapshot_isolation" in variables:
        yield good("innodb_snapshot_isolation", "OFF")


def _is_on(variables: Mapping[str, str], name: str) -> bool:
    # MariaDB's read_only has more values than two since 12.
    return variables.get(name, "OFF").upper() not in ("OFF", "0", "FALSE", "NO", "")


def _of_table(connection: Connection, table: str, schema: str | None) -> Iterator[Finding]:
    name = quoted(connection, table, schema)
    has = {right: _may(connection, sql.format(table=name)) for right, sql in _TRIED.items()}
    if None in has.values():  # there is none, or another one of that name
        return
    yield rights({right: bool(may) for right, may in has.items()})
    found = asked(connection, _COLUMNS, {"table": table, "schema": schema}) or []
    if wrong := [f"{column} {collation}" for column, collation in found if collation != _COLLATION]:
        text = f"{', '.join(wrong)}: searches by tenant and scope take different names for one"
        cure = f"ALTER TABLE {name} CONVERT TO CHARACTER SET utf8mb4 COLLATE {_COLLATION}"
        yield mend("collation", text, cure)
    elif found:
        yield good("collation", _COLLATION)


def _may(connection: Connection, sql: str) -> bool | None:
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(sql)
    except DBAPIError as error:
        from ..mysql import MySQL  # which takes this catalogue for its own

        return False if MySQL.numbered(error) is Fault.DENIED else None
    return True


def _of_history(connection: Connection) -> Iterator[Finding]:
    sql = "SELECT count FROM information_schema.innodb_metrics WHERE name = 'trx_rseg_history_len'"
    length: Any = first(connection, sql)
    if length is None:
        yield note("purge lag", "this role may not see it", "GRANT PROCESS ON *.*")
    elif length > _HISTORY:
        text = f"InnoDB has {length:,} old versions of rows to remove: a transaction was open for long, or still is"
        yield mend("purge lag", text, "Find it in information_schema.innodb_trx by its trx_started, and end it")
    else:
        yield good("purge lag", f"{length:,} old versions of rows")

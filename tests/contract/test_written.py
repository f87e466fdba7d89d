"""PyMySQL's statements with their values written into them: the same values arrive, and who has a say is heard."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from pymysql.cursors import Cursor
from sqlalchemy.dialects import mysql

from idemtable.dialects.written import Written
from tests.support.backends import db_of
from tests.support.database import Database, effect

VALUES: list[Any] = [
    None,
    0,
    -(2**63),
    2**64 - 1,
    b"",
    bytes(range(256)),
    "",
    "orders.create:7-b_C",
    'it\'s \\ "quoted" `so` -- /* # */ ; %s %(a)s',
    "\x00\n\r\x1a",
    "naïve, 世界, 🐘",
    "\N{FULLWIDTH APOSTROPHE}\u02bc' OR 1=1 -- ",
]
PLACES = ", ".join(f":v{number}" for number in range(len(VALUES)))


@pytest.fixture(params=["mariadb", "mysql"])
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.mark.parametrize("mode", ["", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ANSI,NO_BACKSLASH_ESCAPES"])
@pytest.mark.parametrize("charset", ["utf8mb4", "latin1", "gbk"])
def test_values_arrive_as_they_are_whatever_mode_and_character_set_a_session_has(
    db: Database, mode: str, charset: str
) -> None:
    statement = Written(f"SELECT {PLACES}", mysql.dialect(paramstyle="pyformat"))
    values = {f"v{number}": value for number, value in enumerate(VALUES)}
    with db.other_engine(connect_args={"charset": charset}, pool_size=1) as engine, engine.connect() as connection:
        connection.exec_driver_sql("SET SESSION sql_mode = %s", (mode,))
        connection.exec_driver_sql("SET NAMES %s", (charset,))
        text = statement.text(values)
        assert text is not None
        assert text.isascii()
        columns = [f"({place.strip()})" for place in text.removeprefix("SELECT ").split(", ")]
        assert len(columns) == len(VALUES)
        # As the columns of the table take them: what a driver makes of what it reads is its own affair.
        for value, column in zip(VALUES, columns, strict=True):
            kind = "BINARY" if isinstance(value, bytes) else "CHAR CHARACTER SET utf8mb4"
            wanted = value.encode() if isinstance(value, str) else str(value).encode() if value is not None else None
            found = connection.exec_driver_sql(f"SELECT HEX(CONVERT({column}, {kind}))").scalar()
            assert isinstance(value, str) is (
                connection.exec_driver_sql(f"SELECT CHARSET({column})").scalar() != "binary"
            )
            assert found == (None if wanted is None else (value if isinstance(value, bytes) else wanted).hex().upper())


def test_values_of_another_kind_go_as_the_driver_sends_them() -> None:
    statement = Written("SELECT :a", mysql.dialect(paramstyle="pyformat"))
    assert statement.text({"a": 1.5}) is None
    assert statement.text({"a": "\ud800"}) is None
    assert statement.text({"a": True}) is None


@pytest.mark.parametrize(
    ("sql", "gives"),
    [
        ("SELECT 1", True),
        ("  SET STATEMENT innodb_lock_wait_timeout = :wait FOR INSERT INTO t VALUES (1)", False),
        ("SET STATEMENT innodb_lock_wait_timeout = :wait FOR SELECT 1", True),
        ("SET STATEMENT a = 1, b = 2 FOR INSERT INTO t VALUES (1)", True),  # is not looked at so closely
        ("SET @a = 1", False),
        ("INSERT INTO t VALUES (1) RETURNING a", True),
        ("BEGIN NOT ATOMIC UPDATE t SET a = 1; END", False),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
    ],
)
def test_what_may_give_rows_is_read_by_a_cursor(sql: str, gives: bool) -> None:
    assert Written(sql, mysql.dialect(paramstyle="pyformat")).gives_rows is gives


def test_what_a_driver_s_own_cursor_class_wants_to_see_goes_through_it(db: Database) -> None:
    seen: list[str] = []

    class Traced(Cursor):
        def execute(self, query: Any, args: Any = None) -> Any:
            seen.append(query)
            return super().execute(query, args)

    with db.other_engine(connect_args={"cursorclass": Traced}) as engine:

        @db.table(engine).transactional("traced", key="key")
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        order("k")
    assert [sql for sql in seen if "INSERT INTO idemtable" in sql]
    assert [sql for sql in seen if "UPDATE idemtable" in sql]
    assert db.effects() == ["k"]


def test_parameters_that_are_hidden_are_not_in_the_text_of_an_error(db: Database) -> None:
    secret = "0123456789abcdef"
    with db.other_engine(hide_parameters=True) as engine:
        idem = db.table(engine)
        db.execute("ALTER TABLE idemtable MODIFY scope VARCHAR(3) NOT NULL")
        try:

            @idem.transactional("hidden", key="key")
            def order(session: Any, key: str) -> int:
                return effect(session, key)

            with pytest.raises(sa.exc.DBAPIError) as caught:
                order(secret)
        finally:
            db.execute("ALTER TABLE idemtable MODIFY scope VARCHAR(255) NOT NULL")
    assert "INSERT INTO" in str(caught.value)
    assert secret not in str(caught.value)
    assert secret.encode().hex() not in str(caught.value).lower()

"""Which drivers the library runs on: those whose errors it knows."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import IdemTable
from idemtable.dialects import find

KNOWN = [
    *("postgresql+psycopg", "postgresql+psycopg_async", "postgresql+psycopg2", "postgresql+asyncpg"),
    *("mysql+pymysql", "mysql+mysqldb", "mysql+mysqlconnector", "mysql+asyncmy"),
    *("mariadb+pymysql", "mariadb+mysqldb", "mariadb+mysqlconnector", "mariadb+asyncmy"),
    *("sqlite+pysqlite", "sqlite+aiosqlite"),
]


def dialect_of(name: str) -> Any:
    return sa.make_url(f"{name}://").get_dialect()()


@pytest.mark.parametrize("name", KNOWN)
def test_a_driver_whose_errors_are_known_is_taken(name: str) -> None:
    assert find(dialect_of(name), "idemtable", None).table == "idemtable"


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("postgresql+pg8000", "postgresql+psycopg://"),
        ("mysql+aiomysql", "mysql+pymysql://"),
        ("mariadb+pyodbc", "mariadb+pymysql://"),
        ("sqlite+pysqlcipher", "sqlite+pysqlite://"),
    ],
)
def test_another_one_is_refused_with_the_names_of_those_that_work(name: str, cure: str) -> None:
    with pytest.raises(ValueError, match="has not been tried on") as refused:
        find(dialect_of(name), "idemtable", None)
    assert cure in str(refused.value)


def test_it_is_refused_when_the_table_is_made() -> None:
    nobody = SimpleNamespace(paramstyle="format", __version__="1.31.0", Error=Exception)
    engine = sa.create_engine("postgresql+pg8000://", module=nobody)
    with pytest.raises(ValueError, match=r"postgresql\+pg8000"):
        IdemTable(engine)


def test_an_error_of_a_tables_engine_is_pickled_and_copied_as_that_of_any_other() -> None:
    engine = sa.create_engine("sqlite://")
    IdemTable(engine)
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError) as caught:
        connection.execute(sa.text("SELECT * FROM missing"))
    for error in (caught.value, caught.value.orig):
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert (type(again), str(again)) == (type(error), str(error))

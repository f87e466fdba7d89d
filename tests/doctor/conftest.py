"""Databases that have the table, and are about to be broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from idemtable import upgrade
from tests.cli.conftest import run  # noqa: F401 - a fixture
from tests.support.backends import BACKENDS, server

INNODB = ["mariadb", "mysql"]


class Patient:
    """A database, engines for it, and statements behind the library's back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engines: list[sa.Engine] = []
        self._admin = self.engine(poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        self.kind = self._admin.dialect.name

    def engine(self, **options: Any) -> sa.Engine:
        self._engines.append(sa.create_engine(self.url, **options))
        return self._engines[-1]

    def execute(self, *statements: str) -> Any:
        with self._admin.connect() as connection:
            for statement in statements:
                result = connection.exec_driver_sql(statement)
            return result.scalar() if result.returns_rows else None

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()


@pytest.fixture(params=[name for name in ("postgresql18", *INNODB) if name in BACKENDS])
def patient(request: pytest.FixtureRequest) -> Iterator[Patient]:
    where, name = server(request.param), f"t_{uuid4().hex[:16]}"
    where.create_database(name)
    upgrade.upgrade(where.url(name))
    patient = Patient(where.url(name))
    yield patient
    patient.close()
    where.drop_database(name)

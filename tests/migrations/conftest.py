"""An engine on a fresh, empty database, and a program with an Alembic project of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

APPLICATION_ENV = """
from alembic import context
import sqlalchemy as sa
import idemtable.schema

application = sa.MetaData(naming_convention={
    "pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(constraint_name)s"
})
sa.Table("orders", application, sa.Column("id", sa.Integer, primary_key=True))
target = [application, idemtable.schema.metadata]
url = context.config.get_main_option("sqlalchemy.url")
# A single MetaData is what makes Alembic apply the naming convention to operations.
with_convention = context.get_x_argument(as_dictionary=True).get("one")
if context.is_offline_mode():
    context.configure(url=url, target_metadata=target, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=application if with_convention else target)
        with context.begin_transaction():
            context.run_migrations()
"""

FIRST_REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "aaaa", None
def upgrade():
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True))
def downgrade():
    op.drop_table("orders")
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def application(database_url: str, tmp_path: Path) -> Config:
    """A program with an Alembic project of its own, and a table in it."""
    folder = tmp_path / "application"
    config = Config(folder / "alembic.ini")
    folder.mkdir()
    command.init(config, str(folder / "alembic"))
    (folder / "alembic" / "env.py").write_text(APPLICATION_ENV)
    (folder / "alembic" / "versions" / "aaaa_first.py").write_text(FIRST_REVISION)
    config = Config(folder / "alembic.ini")
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config

"""The database comes from SHOP_URL, as for the application."""

import os

from alembic import context
from sqlalchemy import NullPool, create_engine

import idemtable
from shop.models import Base

url = os.environ.get("SHOP_URL", "sqlite:///shop.db")
# Both, or autogenerate would drop the table of the keys.
target_metadata = [Base.metadata, idemtable.metadata]

if context.is_offline_mode():
    context.configure(url=url, target_metadata=target_metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        context.configure(connection=connection, target_metadata=target_metadata)
        with context.begin_transaction():
            context.run_migrations()

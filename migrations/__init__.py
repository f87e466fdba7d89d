"""The table's Alembic revisions; ``idemtable.migrations`` once installed."""

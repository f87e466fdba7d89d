"""A connection that was given up is known as such for as long as it is there, and no longer."""

from __future__ import annotations

import gc

import sqlalchemy as sa

from idemtable.claim import transaction


def test_the_number_of_a_connection_that_is_gone_is_nobodys() -> None:
    before = set(transaction._cut)
    engine = sa.create_engine("sqlite://")
    connection = engine.connect()
    transaction._given_up(connection)
    assert set(transaction._cut) - before == {id(connection)}
    connection.close()
    del connection
    gc.collect()
    assert set(transaction._cut) == before

"""A connection that was given up is known as such for as long as it is there, and no longer."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import IdemTable, LostClaimError, RetryTransactionError
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


def test_whatever_the_driver_says_of_a_connection_that_the_call_around_has_given_up_asks_to_begin_again() -> None:
    idem, told = IdemTable(sa.create_engine("sqlite://")), list[type[Exception]]()
    idem.create_all()

    def break_down(*savepoint: Any) -> None:
        raise AttributeError(
            "'NoneType' object has no attribute 'read'"
        )  # as PyMySQL does where it was closed meanwhile

    @idem.transactional("unit.inner", key="key")
    def inner(session: Session, key: str) -> None:
        transaction._given_up(session.connection())
        sa.event.listen(session.connection(), "release_savepoint", break_down)

    @idem.transactional("unit.outer", key="key")
    def outer(session: Session, key: str) -> None:
        try:
            inner(key)
        except Exception as error:
            told.append(type(error))

    with pytest.raises(LostClaimError):
        outer("k")
    assert told == [RetryTransactionError]

"""A setting that is changed for a while: it is put back, and what is being raised goes on."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest

from idemtable.dialects.words import lent


def test_an_error_goes_on_whatever_becomes_of_the_setting() -> None:
    connection = Mock(invalidated=False)
    with pytest.raises(LookupError), lent(connection, Mock(side_effect=OSError)):
        raise LookupError
    connection.invalidate.assert_called_once()


def test_an_interruption_while_a_setting_is_put_back_is_raised_and_nobody_finds_the_setting() -> None:
    connection = Mock(invalidated=False)
    with pytest.raises(asyncio.CancelledError), lent(connection, Mock(side_effect=asyncio.CancelledError)):
        raise LookupError
    connection.invalidate.assert_called_once()


def test_on_a_connection_that_is_gone_nothing_is_put_back() -> None:
    put_back = Mock()
    with pytest.raises(LookupError), lent(Mock(invalidated=True), put_back):
        raise LookupError
    put_back.assert_not_called()

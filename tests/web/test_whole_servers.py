"""A small run of the experiment that `make reliability` does at length."""

from __future__ import annotations

import pytest

from tests.reliability.http import experiment
from tests.support.backends import db_of


@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn"])
def test_whole_servers_with_clients_that_hang_up_do_each_order_once(kind: str) -> None:
    report = experiment(db_of("postgresql18"), kind, keys=60, kills=1, seed=20261125)
    assert report.hang_ups >= 20
    assert report.statuses[201] == 180
